package budget

import (
	"io"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// heldBodyKey is Caddy's variable in a request's context for its held body.
const heldBodyKey = "responses_budget.body"

// maxHeldWhole is how long a body may be that stays in memory while it is
// answered, in bytes. With a header it fits into what net/http sends at once.
const maxHeldWhole = 2 << 10

// HeldBody is a request's body that a budget has in memory: reading it never
// waits.
type HeldBody struct {
	pieces bodyPieces
	at     int  // in which piece reading is
	from   int  // where in it
	small  bool // the pieces stay when they are read
}

// bodyPieces are a body, with what the budget writes into it in the middle.
type bodyPieces [3][]byte

// SmallBody is the body of r, if a budget has it in memory, and if it is small;
// else nil. Handlers between the budget and the caller of SmallBody may have
// replaced r.Body: so read that one, and nothing else.
func SmallBody(r *http.Request) *HeldBody {
	if r.ContentLength <= 0 || r.ContentLength > maxHeldWhole {
		return nil
	}
	body, _ := caddyhttp.GetVar(r.Context(), heldBodyKey).(*HeldBody)
	return body
}

// give gives r its body back, and says how long it is now, in bytes.
func (b *HeldBody) give(r *http.Request, pieces bodyPieces) (length int64) {
	for _, piece := range pieces {
		length += int64(len(piece))
	}
	b.pieces, b.small = pieces, length <= maxHeldWhole
	r.Body = b
	if b.small {
		caddyhttp.SetVar(r.Context(), heldBodyKey, b)
	}
	if r.ContentLength != length {
		r.ContentLength, r.TransferEncoding = length, nil
		r.Header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	return length
}

// Rewind lets a small body be read again from its beginning.
func (b *HeldBody) Rewind() { b.at, b.from = 0, 0 }

// Read implements io.Reader. It lets go of each piece of a large body that has
// been read to its end: an answer can take many minutes.
func (b *HeldBody) Read(to []byte) (int, error) {
	for ; b.at < len(b.pieces); b.at, b.from = b.at+1, 0 {
		if piece := b.pieces[b.at]; b.from < len(piece) {
			n := copy(to, piece[b.from:])
			b.from += n
			return n, nil
		}
		if !b.small {
			b.pieces[b.at] = nil
		}
	}
	return 0, io.EOF
}

// Close implements io.Closer.
func (b *HeldBody) Close() error { return nil }
