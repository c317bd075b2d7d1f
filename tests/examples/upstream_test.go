//go:build linux

package examples

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// upstream stands in for the OpenAI API, and records what reaches it.
type upstream struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

// newUpstream starts an upstream that speaks http.
func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := new(upstream)
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

// newTLSUpstream starts an upstream that speaks https. The variable makes
// Caddy trust it.
func newTLSUpstream(t *testing.T) (u *upstream, variable string) {
	t.Helper()
	u = new(upstream)
	u.Server = httptest.NewTLSServer(u)
	t.Cleanup(u.Close)
	path := filepath.Join(newDir(t), "upstream.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: u.Certificate().Raw})
	writeFile(t, path, string(certificate), 0, 0o644)
	return u, "SSL_CERT_FILE=" + path
}

// ServeHTTP answers with a turn, as far as Codex needs one.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	u.mu.Lock()
	u.seen = append(u.seen, r)
	u.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	for _, event := range []string{
		`{"type":"response.created","response":{"id":"resp_1"}}`,
		`{"type":"response.output_item.done","output_index":0,"item":{"type":"message","role":"assistant","id":"msg_1","content":[{"type":"output_text","text":"the upstream says hello"}]}}`,
		`{"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":1,"input_tokens_details":null,"output_tokens":1,"output_tokens_details":null,"total_tokens":2}}}`,
	} {
		kind := strings.Split(event, `"`)[3]
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, event)
		_ = http.NewResponseController(w).Flush()
	}
}

// only is the one request that was seen, and forgets it.
func (u *upstream) only(t *testing.T) *http.Request {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.seen) != 1 {
		t.Fatalf("the upstream saw %d requests, want 1", len(u.seen))
	}
	request := u.seen[0]
	u.seen = nil
	return request
}

// turn asks the gate on a port for a turn, and tells the answer's status.
func turn(t *testing.T, port int, token string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		fmt.Sprintf("http://127.0.0.1:%d/v1/responses", port), strings.NewReader(`{"model":"gpt-5","input":"hi"}`))
	must(t, err)
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Do(request)
	must(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(t, err)
	if answer.StatusCode == http.StatusOK && !strings.Contains(string(body), "the upstream says hello") {
		t.Errorf("the answer is not the upstream's: %q", body)
	}
	return answer.StatusCode
}

// serves checks that the gate serves callers with the token, with the
// operator's key, and no others.
func serves(t *testing.T, u *upstream, port int, token string) {
	t.Helper()
	if status := turn(t, port, ""); status != http.StatusUnauthorized {
		t.Errorf("a caller without the token gets %d, want 401", status)
	}
	if status := turn(t, port, token); status != http.StatusOK {
		t.Fatalf("a caller with the token gets %d, want 200", status)
	}
	if got := u.only(t).Header.Get("Authorization"); got != "Bearer "+operatorKey {
		t.Errorf("the upstream got Authorization %q, want the operator's key", got)
	}
}
