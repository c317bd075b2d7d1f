//go:build unix

package malformed

import (
	"strings"
	"testing"
)

// post is a request with a body behind this request line and these fields.
func post(fields string) string {
	return fields + "Content-Length: 17\r\n\r\n" + body
}

func TestOddFieldsAreNoWayAroundAnyCheck(t *testing.T) {
	t.Parallel()
	g := startGate(t)
	for _, e := range []exchange{
		{"a token with an underscore", post(postLine + host + json + "X_Proxy_Token: TOKEN\r\n"), "401 missing_token", 0},
		{"a token in a field with a space", post(postLine + host + json + "X-Proxy Token: TOKEN\r\n"), "400", 0},
		{"a token in a field with a NUL", post(postLine + host + json + "X-Proxy-Token\x00: TOKEN\r\n"), "400", 0},
		{"a token in a field with a tab", post(postLine + host + json + "X-Proxy-Token\t: TOKEN\r\n"), "400", 0},
		{"a token in a field with a no-break space", post(postLine + host + json + "\xa0X-Proxy-Token: TOKEN\r\n"), "400", 0},
		{"a token in a field without a name", post(good + ": TOKEN\r\n"), "400", 0},
		{"a token in a list", post(postLine + host + json + "X-Proxy-Token: TOKEN,TOKEN\r\n"), "401 invalid_token", 0},
		{"a token twice, once empty", post(good + "X-Proxy-Token:\r\n"), "401 invalid_token", 0},
		{"a token behind a bare line feed", post(postLine + host + json + "X-A: b\nX-Proxy-Token: TOKEN\r\n"), "200", 1},
		{"a bearer on a folded line", post(postLine + host + json + "Authorization: Bearer\r\n TOKEN\r\n"), "200", 1},
		{"a bearer and a colon", post(postLine + host + json + "Authorization: Bearer: TOKEN\r\n"), "401 missing_token", 0},
		{"a bearer among parameters", post(postLine + host + json + "Authorization: Bearer token=\"TOKEN\"\r\n"), "401 invalid_token", 0},
		{"two bearers, the last in odd case", post(postLine + host + json + "Authorization: Bearer TOKEN\r\naUTHORIZATION: Bearer TOKEN\r\n"), "401 invalid_token", 0},

		{"a key with underscores", post(good + "Api_Key: STOLEN\r\nX_Api_Key: STOLEN\r\nX_Proxy_Token: STOLEN\r\nProxy_Authorization: STOLEN\r\n"), "200", 1},
		{"every credential at once", post(good + "Authorization: Basic STOLEN\r\nProxy-Authorization: STOLEN\r\nCookie: a=STOLEN\r\nApi-Key: STOLEN\r\nX-Api-Key: STOLEN\r\nSec-WebSocket-Protocol: a, \"openai-insecure-api-key.STOLEN\"\r\n"), "200", 1},
		{"Connection that names the framing", post(good + "Connection: content-length, transfer-encoding, host, content-type, authorization\r\n"), "200", 1},
		{"Connection over two lines", post(good + "Connection: keep-alive\r\nConnection: authorization,\r\n\tx-proxy-token\r\n"), "200", 1},
		{"Proxy-Connection and Keep-Alive", post(good + "Proxy-Connection: authorization\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate;q=0.5\r\n"), "200", 1},
		{"a field like a request line", post(good + "POST /v1/files HTTP/1.1: x\r\n"), "400", 0},

		{"two Origins in a list", post(good + "Origin: null, https://attacker.example\r\n"), "403 origin_not_allowed", 0},
		{"two Origins", post(good + "Origin: null\r\nOrigin: https://attacker.example\r\n"), "403 origin_not_allowed", 0},
		{"an Origin in a field with a space", post(good + "Origin : https://attacker.example\r\n"), "400", 0},
		{"a Sec-Fetch-Site in a list", post(good + "Sec-Fetch-Site: none, cross-site\r\n"), "403 cross_site_request", 0},

		{"two Hosts in a list", post(postLine + "Host: 127.0.0.1, attacker.example\r\n" + json + token), "400", 0},
		{"a Host with a user", post(postLine + "Host: 127.0.0.1@attacker.example\r\n" + json + token), "400", 0},
		{"a Host on a folded line", post(postLine + "Host: 127.0.0.1\r\n .attacker.example\r\n" + json + token), "400", 0},
		{"a Host with a path", post(postLine + "Host: 127.0.0.1/attacker.example\r\n" + json + token), "400", 0},
		{"a Host of other letters", post(postLine + "Host: \u217c\u2070calhost\r\n" + json + token), "400", 0},

		{"a type on a folded line", post(postLine + host + token + "Content-Type: application/json\r\n , text/plain\r\n"), "415 content_type_not_json", 0},
		{"a type with an underscore", post(postLine + host + token + "Content_Type: application/json\r\n"), "415 content_type_not_json", 0},
		{"two types in a list", post(postLine + host + token + "Content-Type: application/json,text/plain\r\n"), "415 content_type_not_json", 0},
		{"a type with a NUL", post(postLine + host + token + "Content-Type: application/json\x00text/plain\r\n"), "400", 0},
		{"a second type in odd case", post(good + "cONTENT-tYPE: text/plain\r\n"), "415 content_type_not_json", 0},

		{"more fields than the server takes", post(good + "X-A: " + strings.Repeat("b", 2<<20) + "\r\n"), "431", 0},
		{"a field" + cutShort, good + "X-A: " + strings.Repeat("b", 4096), "400", 0},
		{"ten thousand fields", post(good + strings.Repeat("X-A: b\r\n", 10000)), "431", 0},
		{"a head without its last line" + cutShort, strings.TrimSuffix(good, "\r\n"), "400", 0},
	} {
		t.Run(e.harm, func(t *testing.T) { e.run(t, g) })
	}
}

func TestOddRequestLinesAreNoWayAroundTheRoutes(t *testing.T) {
	t.Parallel()
	g := startGate(t)
	line := func(line string) string {
		return line + "\r\n" + host + json + token + "Content-Length: 17\r\n\r\n" + body
	}
	const elsewhere = "403 route_not_allowed"
	for _, e := range []exchange{
		{"absolute form with the gate's host", line("POST http://127.0.0.1/v1/responses HTTP/1.1"), elsewhere, 0},
		{"absolute form with another scheme", line("POST gopher://127.0.0.1/v1/responses HTTP/1.1"), elsewhere, 0},
		{"absolute form without a host", line("POST http:///v1/responses HTTP/1.1"), elsewhere, 0},
		{"absolute form with a user", line("POST http://a@127.0.0.1/v1/responses HTTP/1.1"), elsewhere, 0},
		{"a scheme without slashes", line("POST http:/v1/responses HTTP/1.1"), elsewhere, 0},
		{"authority form", line("CONNECT 127.0.0.1:443 HTTP/1.1"), elsewhere, 0},
		{"CONNECT with a path", line("CONNECT /v1/responses HTTP/1.1"), elsewhere, 0},
		{"asterisk form", line("POST * HTTP/1.1"), elsewhere, 0},
		{"OPTIONS in asterisk form, which net/http answers", line("OPTIONS * HTTP/1.1"), "200", 0},
		{"a path without its slash", line("POST v1/responses HTTP/1.1"), "400", 0},
		{"a fragment", line("POST /v1/responses#x HTTP/1.1"), elsewhere, 0},
		{"an empty query", line("POST /v1/responses? HTTP/1.1"), elsewhere, 0},
		{"a query in escapes", line("POST /v1/responses%3Fx HTTP/1.1"), elsewhere, 0},
		{"path parameters", line("POST /v1/responses;x HTTP/1.1"), elsewhere, 0},
		{"two slashes", line("POST //v1/responses HTTP/1.1"), elsewhere, 0},
		{"a backslash", line(`POST /v1\responses HTTP/1.1`), elsewhere, 0},
		{"a dot segment", line("POST /v1/files/../responses HTTP/1.1"), elsewhere, 0},
		{"a dot segment in escapes", line("POST /v1/files/%2e%2e/responses HTTP/1.1"), elsewhere, 0},
		{"a NUL in escapes", line("POST /v1/responses%00 HTTP/1.1"), elsewhere, 0},
		{"a malformed escape", line("POST /v1/responses%zz HTTP/1.1"), "400", 0},
		{"a NUL", line("POST /v1/responses\x00 HTTP/1.1"), "400", 0},
		{"a carriage return", line("POST /v1/responses\r HTTP/1.1"), "400", 0},
		{"a byte beyond ASCII", line("POST /v1/responses\xff HTTP/1.1"), elsewhere, 0},
		{"a space in the path", line("POST /v1/responses x HTTP/1.1"), "400", 0},
		{"a tab for a space", line("POST\t/v1/responses HTTP/1.1"), "400", 0},
		{"two spaces", line("POST  /v1/responses HTTP/1.1"), "400", 0},
		{"two versions", line("POST /v1/responses HTTP/1.1 HTTP/1.1"), "400", 0},
		{"a version in lower case", line("POST /v1/responses http/1.1"), "400", 0},
		{"a version with a space", line("POST /v1/responses HTTP/ 1.1"), "400", 0},
		{"a version of two digits", line("POST /v1/responses HTTP/1.10"), "400", 0},
		{"a version that nobody speaks", line("POST /v1/responses HTTP/1.2"), "200", 1},
		{"HTTP/2.0 by name", line("POST /v1/responses HTTP/2.0"), "505", 0},
		{"HTTP/0.9", "GET /v1/models\r\n\r\n", "400", 0},
		{"HTTP/0.9 with fields", "GET /v1/models\r\n" + host + token + "\r\n", "400", 0},
		{"HTTP/1.0 that keeps alive", strings.Replace(line("POST /v1/responses HTTP/1.0"), "Content-Length", "Connection: keep-alive\r\nContent-Length", 1) + tokenless, "200 401 missing_token", 1},
		{"a method in lower case", line("post /v1/responses HTTP/1.1"), elsewhere, 0},
		{"a method with a NUL", line("POST\x00 /v1/responses HTTP/1.1"), "400", 0},
		{"a method in quotes", line(`"POST" /v1/responses HTTP/1.1`), "400", 0},
		{"another method", line("PROPFIND /v1/responses HTTP/1.1"), elsewhere, 0},
		{"the method of another route", line("GET /v1/responses HTTP/1.1"), elsewhere, 0},
		{"a line of a megabyte", line("POST /v1/responses" + strings.Repeat("/x", 1<<20) + " HTTP/1.1"), "431", 0},
		{"TRACE", line("TRACE /v1/responses HTTP/1.1"), elsewhere, 0},
	} {
		t.Run(e.harm, func(t *testing.T) { e.run(t, g) })
	}
}
