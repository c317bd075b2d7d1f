// Package refusal is how the project's handlers say no: JSON in the OpenAI
// error shape, which every OpenAI client can read, with a stable code for
// programs and a message that tells a person what to do.
package refusal

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// GateHeader carries the code of an answer of the gate's own.
const GateHeader = "X-Responses-Proxy-Gate"

// Answer is a refusal, prepared whole. It never quotes anything from a
// request, so it can leak nothing.
type Answer struct {
	Status int
	Code   string
	Body   []byte
	Header [][2]string // name, in canonical form, and value
}

// Own is the header of every answer in this shape.
var Own = [][2]string{
	{"Content-Type", "application/json"},
	{"Cache-Control", "no-store"},
	{"X-Content-Type-Options", "nosniff"},
}

// New prepares an answer. The header named by mark has its code, so that a
// program can tell it from the upstream's without reading the body.
func New(mark string, status int, code, message string) *Answer {
	return newAnswer(mark, status, errorBody{Code: code, Message: message, Type: errorType(status)})
}

// NewFinal prepares an answer that another try cannot change. Clients that
// read x-should-retry do not make one.
func NewFinal(mark string, status int, code, message string) *Answer {
	a := New(mark, status, code, message)
	a.Header = append(a.Header, [2]string{"X-Should-Retry", "false"})
	return a
}

// UntilReset prepares a 429 that ends a Codex turn at once and makes Codex say
// when to try again; the SDKs do not repeat it either (both measured).
func UntilReset(mark, code, message string, now, resets time.Time) *Answer {
	a := newAnswer(mark, http.StatusTooManyRequests, errorBody{
		Code: code, Message: message, Type: "usage_limit_reached", ResetsAt: resets.Unix(),
	})
	wait := max(1, int64(resets.Sub(now).Seconds()+1))
	a.Header = append(a.Header, [2]string{"X-Should-Retry", "false"}, [2]string{"Retry-After", strconv.FormatInt(wait, 10)})
	return a
}

// Soon prepares a 429 that clients repeat after a number of seconds.
func Soon(mark, code, message string, seconds int) *Answer {
	a := New(mark, http.StatusTooManyRequests, code, message)
	a.Header = append(a.Header, [2]string{"Retry-After", strconv.Itoa(seconds)})
	return a
}

func newAnswer(mark string, status int, body errorBody) *Answer {
	a := &Answer{Status: status, Code: body.Code, Body: body.encode()}
	a.Header = append(append(a.Header, Own...), [2]string{mark, body.Code})
	if status == http.StatusUnauthorized { // RFC 9110 §11.6.1
		a.Header = append(a.Header, [2]string{"Www-Authenticate", "Bearer"})
	}
	return a
}

// errorBody is OpenAI's error object.
type errorBody struct {
	Message  string  `json:"message"`
	Type     string  `json:"type"`
	Param    *string `json:"param"`
	Code     string  `json:"code"`
	ResetsAt int64   `json:"resets_at,omitempty"` // Unix seconds, as Codex reads it
}

func (b errorBody) encode() []byte {
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false) // "<token>" is for people to read, and the answer is never HTML
	if err := encoder.Encode(struct {
		Error errorBody `json:"error"`
	}{b}); err != nil {
		panic(err) // strings and numbers always encode
	}
	return encoded.Bytes()
}

// errorType is OpenAI's word for a class of errors.
func errorType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status >= http.StatusInternalServerError:
		return "server_error"
	}
	return "invalid_request_error"
}

// SetHeader sets fields that are in canonical form. The values are the
// answer's own: other handlers (Caddy's header directive) may change them in
// place.
func SetHeader(header http.Header, fields [][2]string) {
	values := make([]string, len(fields))
	for i, field := range fields {
		values[i] = field[1]
		header[field[0]] = values[i : i+1 : i+1]
	}
}

// Write answers r with a, and nothing follows: then net/http adds the length,
// which costs less than to have it in the header. One that is there is of an
// answer that another handler meant to give, and so is the rest.
func (a *Answer) Write(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Trailer"} {
		delete(header, name)
	}
	if a.Status == http.StatusUpgradeRequired && r.ProtoMajor == 1 { // RFC 9110 §15.5.22
		// An HTTP/2 or 3 answer with it is malformed: RFC 9113 §8.2.2, RFC 9114 §4.2.
		header["Upgrade"] = []string{"HTTP/1.1"}
	}
	a.Send(w)
}

// Send answers with a and what the header has.
func (a *Answer) Send(w http.ResponseWriter) {
	SetHeader(w.Header(), a.Header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // a caller who is gone needs no answer
}
