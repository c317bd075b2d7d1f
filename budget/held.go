package budget

import (
	"io"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// heldBodyKey is Caddy's variable in a request's context that says that its body is held.
const heldBodyKey = "responses_budget.body_is_held"

// maxSmall is how long a small body may be, in bytes. With a header it fits
// into what net/http sends at once.
const maxSmall = 2 << 10

// heldBody is a request's body that a budget has in memory: reading it never
// waits.
type heldBody struct {
	pieces bodyPieces
	at     int // in which piece reading is
	from   int // where in it
}

// bodyPieces are a body, with what the budget writes into it in the middle.
type bodyPieces [3][]byte

// HoldsSmallBody reports whether the body of r is small, and a budget had it in
// memory. (Handlers between the budget and the caller may have replaced r.Body.)
func HoldsSmallBody(r *http.Request) bool {
	if r.ContentLength <= 0 || r.ContentLength > maxSmall {
		return false
	}
	held, _ := caddyhttp.GetVar(r.Context(), heldBodyKey).(bool)
	return held
}

// give gives r its body back, and says how long it is now, in bytes.
func (b *heldBody) give(r *http.Request, pieces bodyPieces) (length int64) {
	for _, piece := range pieces {
		length += int64(len(piece))
	}
	b.pieces = pieces
	r.Body = b
	if length <= maxSmall {
		caddyhttp.SetVar(r.Context(), heldBodyKey, true)
	}
	if r.ContentLength != length {
		r.ContentLength, r.TransferEncoding = length, nil
		r.Header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	return length
}

// Read implements io.Reader. It lets go of each piece that has been read to its
// end: an answer can take many minutes.
func (b *heldBody) Read(to []byte) (int, error) {
	for ; b.at < len(b.pieces); b.at, b.from = b.at+1, 0 {
		if piece := b.pieces[b.at]; b.from < len(piece) {
			n := copy(to, piece[b.from:])
			b.from += n
			return n, nil
		}
		b.pieces[b.at] = nil
	}
	return 0, io.EOF
}

// Close implements io.Closer.
func (b *heldBody) Close() error { return nil }
