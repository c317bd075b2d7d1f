//go:build unix

package malformed

import (
	"fmt"
	"strings"
	"testing"
)

const (
	postLine = "POST /v1/responses HTTP/1.1\r\n"
	host     = "Host: 127.0.0.1\r\n"
	json     = "Content-Type: application/json\r\n"
	token    = "X-Proxy-Token: TOKEN\r\n"
	good     = postLine + host + json + token
	chunked  = good + "Transfer-Encoding: chunked\r\n\r\n"

	body  = `{"model":"gpt-5"}`
	whole = good + "Content-Length: 17\r\n\r\n" + body
	end   = "0\r\n\r\n"

	// What somebody without a token would like to see forwarded, and what one
	// with a token may not call.
	tokenless = postLine + host + json + "Content-Length: 0\r\n\r\n"
	elsewhere = "POST /v1/files HTTP/1.1\r\n" + host + json + token + "Content-Length: 0\r\n\r\n"
)

// withLength is a request whose body has the length that it says.
func withLength(body string) string {
	return good + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(strings.ReplaceAll(body, "TOKEN", strings.Repeat("x", 43)))) + body
}

func TestOddFramingSmugglesNothing(t *testing.T) {
	t.Parallel()
	g := startGate(t)
	for _, e := range []exchange{
		// The controls: what is not odd passes.
		{"none, a length", whole, "200", 1},
		{"none, chunks", chunked + "11\r\n" + body + "\r\n" + end, "200", 1},
		{"none, two requests at once", whole + whole, "200 200", 2},

		{"chunked beside a length that is too long", good + "Content-Length: 200\r\nTransfer-Encoding: chunked\r\n\r\n" + end + tokenless, "200 401 missing_token", 1},
		{"chunked beside a length that is too short", good + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n11\r\n" + body + "\r\n" + end + elsewhere, "200 403 route_not_allowed", 1},
		{"an unknown coding", good + "Transfer-Encoding: xchunked\r\n\r\n" + end + whole, "501", 0},
		{"chunked and then identity", good + "Transfer-Encoding: chunked, identity\r\n\r\n" + end + whole, "501", 0},
		{"identity", good + "Transfer-Encoding: identity\r\n\r\n" + whole, "501", 0},
		{"gzip and then chunked", good + "Transfer-Encoding: gzip, chunked\r\n\r\n" + end + whole, "501", 0},
		{"chunked with a parameter", good + "Transfer-Encoding: chunked;q=1\r\n\r\n" + end + whole, "501", 0},
		{"chunked in quotes", good + "Transfer-Encoding: \"chunked\"\r\n\r\n" + end + whole, "501", 0},
		{"an empty coding", good + "Transfer-Encoding:\r\nContent-Length: 17\r\n\r\n" + body + whole, "501", 0},
		{"chunked behind a vertical tab", good + "Transfer-Encoding: \vchunked\r\n\r\n" + end + whole, "400", 0},
		{"chunked behind a space before the colon", good + "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + whole, "400", 0},
		{"chunked on a folded line", good + "Transfer-Encoding:\r\n chunked\r\n\r\n" + end + tokenless, "200 401 missing_token", 1},
		{"chunked behind a bare line feed", good + "X-A: b\nTransfer-Encoding: chunked\r\n\r\n" + end + tokenless, "200 401 missing_token", 1},
		{"chunked with an underscore", good + "Transfer_Encoding: chunked\r\nContent-Length: 17\r\n\r\n" + body + tokenless, "200 401 missing_token", 1},
		{"chunked in HTTP/1.0", strings.Replace(good, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\nContent-Length: 17\r\n\r\n" + body + whole, "200", 1},

		{"two equal lengths", good + "Content-Length: 17\r\nContent-Length: 17\r\n\r\n" + body, "200", 1},
		{"two lengths in one field", good + "Content-Length: 17, 17\r\n\r\n" + body, "400", 0},
		{"a length with a leading zero", good + "Content-Length: 017\r\n\r\n" + body, "200", 1},
		{"a hexadecimal length", good + "Content-Length: 0x11\r\n\r\n" + body, "400", 0},
		{"a length with an underscore", good + "Content-Length: 1_7\r\n\r\n" + body, "400", 0},
		{"a length of other digits", good + "Content-Length: \u0661\u0667\r\n\r\n" + body, "400", 0},
		{"a length beyond 64 bits", good + "Content-Length: 18446744073709551633\r\n\r\n" + body, "400", 0},
		{"an empty length", good + "Content-Length:\r\n\r\n" + whole, "400", 0},
		{"a length on a folded line", good + "Content-Length:\r\n 17\r\n\r\n" + body + tokenless, "200 401 missing_token", 1},
		{"a length behind a bare carriage return", good + "X-A: b\rContent-Length: 0\r\nContent-Length: 17\r\n\r\n" + body, "400", 0},
		{"a length that is too short", good + "Content-Length: 2\r\n\r\n" + body + "\r\n\r\n", "200 400", 1},

		{"a chunk extension", chunked + "11;a=b\r\n" + body + "\r\n" + end, "200", 1},
		{"a chunk extension in quotes with a line end", chunked + "11;a=\"\r\n" + body + "\r\n" + end + tokenless, "200 401 missing_token", 1},
		{"a chunk extension with a bare line feed", chunked + "11;a\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size with a bare line feed", chunked + "11\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size with a bare carriage return", chunked + "11\r\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size with 0x", chunked + "0x11\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size with a sign", chunked + "+11\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a negative chunk size", chunked + "-11\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size with an underscore", chunked + "1_1\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size behind a space", chunked + " 11\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"no chunk size", chunked + "\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk size that wraps around 64 bits", chunked + "10000000000000011\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk that is shorter than its size", chunked + "12\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk that is longer than its size", chunked + "10\r\n" + body + "\r\n" + end, "400 request_failed", 0},
		{"a chunk that ends in a bare line feed", chunked + "11\r\n" + body + "\n" + end, "400 request_failed", 0},
		{"a chunk that ends in something else", chunked + "11\r\n" + body + "xx" + end, "400 request_failed", 0},
		{"a last chunk of many zeros", chunked + "11\r\n" + body + "\r\n00000000\r\n\r\n" + tokenless, "200 401 missing_token", 1},
		{"a length among the trailers", chunked + "11\r\n" + body + "\r\n0\r\nContent-Length: 200\r\n\r\n" + tokenless, "200 401 missing_token", 1},
		{"a token among the trailers", postLine + host + json + "Transfer-Encoding: chunked\r\nTrailer: X-Proxy-Token\r\n\r\n11\r\n" + body + "\r\n0\r\n" + token + "\r\n", "401 missing_token", 0},
		{"credentials among the trailers", chunked + "11\r\n" + body + "\r\n0\r\nAuthorization: STOLEN\r\nX_Api_Key: STOLEN\r\n\r\n" + tokenless, "200 401 missing_token", 1},
		{"a trailer without a colon", chunked + "11\r\n" + body + "\r\n0\r\nPOST /v1/files HTTP/1.1\r\n\r\n" + tokenless, "400 request_failed", 0},
	} {
		t.Run(e.harm, func(t *testing.T) { e.run(t, g) })
	}
}

// Each request on a connection is judged by itself, and a body is a body.
func TestNoRequestRidesOnAnother(t *testing.T) {
	t.Parallel()
	g := startGate(t)
	expecting := func(request string) string {
		return strings.Replace(request, "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1)
	}
	guessed := strings.Replace(whole, "TOKEN", "guess", 1)
	for _, e := range []exchange{
		{"without a token behind one with", whole + tokenless, "200 401 missing_token", 1},
		{"elsewhere behind one that passes", whole + elsewhere, "200 403 route_not_allowed", 1},
		{"of a web page behind one that passes", whole + strings.Replace(whole, token, token+"Origin: https://attacker.example\r\n", 1), "200 403 origin_not_allowed", 1},
		{"with text behind one with JSON", whole + strings.Replace(whole, "application/json", "text/plain", 1), "200 415 content_type_not_json", 1},
		{"with a token behind one without", tokenless + whole, "401 missing_token 200", 1},
		{"with a token behind a wrong one with a body", guessed + whole, "401 invalid_token 200", 1},
		{"as the body of one that passes", withLength(whole), "200", 1},
		{"as the body of one elsewhere", strings.Replace(withLength(whole), "/v1/responses", "/v1/files", 1), "403 route_not_allowed", 0},
		{"as the body of one without a token", strings.Replace(withLength(whole), token, "", 1), "401 missing_token", 0},
		{"as the body of one that expects 100", strings.Replace(expecting(withLength(whole)), token, "", 1), "401 missing_token", 0},
		{"as the chunk of one that expects 100", strings.Replace(expecting(chunked), token, "", 1) + whole, "401 missing_token", 0},
		{"in place of the chunks of a refused one", strings.Replace(chunked, token, "", 1) + whole, "401 missing_token", 0},
		{"behind the chunks of a refused one", strings.Replace(chunked, token, "", 1) + end + whole, "401 missing_token", 0},
		{"behind one that closes", strings.Replace(whole, token, token+"Connection: close\r\n", 1) + whole, "200", 1},
		{"behind HTTP/1.0", strings.Replace(whole, "1.1", "1.0", 1) + whole, "200", 1},
		{"behind a malformed one", "POST /v1/responses\r\n\r\n" + whole, "400", 0},
		{"behind an empty line", "\r\n" + whole, "400", 0},
		{"behind an upgrade to h2c", strings.Replace(whole, token, token+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", 1) +
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "200 403 host_not_allowed", 1},
		{"behind an upgrade by POST", strings.Replace(whole, token, token+"Connection: Upgrade\r\nUpgrade: websocket\r\n", 1) + elsewhere, "200 403 route_not_allowed", 1},
		{"behind one that asks for another expectation", strings.Replace(whole, token, token+"Expect: 200-ok\r\n", 1) + whole, "417", 0},
		{"in the prior knowledge of h2c", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + whole, closed, 0},
		{"behind a GET with a body", "GET /v1/models HTTP/1.1\r\n" + host + json + token + "Content-Length: 17\r\n\r\n" + body + elsewhere, "200 403 route_not_allowed", 1},
		{"behind a GET without a length", "GET /v1/models HTTP/1.1\r\n" + host + token + "\r\n" + elsewhere, "200 403 route_not_allowed", 1},
	} {
		t.Run(e.harm, func(t *testing.T) { e.run(t, g) })
	}
}
