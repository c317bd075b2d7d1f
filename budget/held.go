package budget

import (
	"io"
	"net/http"
	"slices"

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
	whole [][]byte // the pieces of a small body; nil for any other
	left  [][]byte
}

// SmallBody is the body of r, if a budget has it in memory, and if it is small;
// else nil. Handlers between the budget and the caller of SmallBody may have
// replaced r.Body: so read that one, and nothing else.
func SmallBody(r *http.Request) *HeldBody {
	if r.ContentLength <= 0 || r.ContentLength > maxHeldWhole {
		return nil
	}
	body, _ := caddyhttp.GetVar(r.Context(), heldBodyKey).(*HeldBody)
	if body == nil || body.whole == nil {
		return nil
	}
	return body
}

// holdBody gives r its body of a length back, in pieces.
func holdBody(r *http.Request, length int64, pieces [][]byte) {
	body := &HeldBody{left: pieces}
	r.Body = body
	if length <= maxHeldWhole {
		body.whole = slices.Clone(pieces)
		caddyhttp.SetVar(r.Context(), heldBodyKey, body)
	}
}

// Rewind lets a small body be read again from its beginning.
func (b *HeldBody) Rewind() { b.left = slices.Clone(b.whole) }

// Read implements io.Reader. It lets go of each piece that has been read to its
// end: an answer can take many minutes.
func (b *HeldBody) Read(to []byte) (int, error) {
	for len(b.left) > 0 && len(b.left[0]) == 0 {
		b.left[0] = nil
		b.left = b.left[1:]
	}
	if len(b.left) == 0 {
		b.left = nil
		return 0, io.EOF
	}
	n := copy(to, b.left[0])
	b.left[0] = b.left[0][n:]
	return n, nil
}

// Close implements io.Closer.
func (b *HeldBody) Close() error { return nil }
