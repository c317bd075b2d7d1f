//go:build unix

package codex

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// silence is how long an upstream says nothing in the tests of silence: in
// CI, longer than any usual timeout of a proxy is too long.
func silence() time.Duration {
	if os.Getenv("CODEX_LONG") != "" {
		return 6 * time.Minute
	}
	return 20 * time.Second
}

// post sends a turn and tells the answer once its headers are there.
func post(t *testing.T, p *proxy) (*http.Response, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.baseURL()+"/responses", strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Proxy-Token", p.token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	response, err := client.Do(request)
	if err == nil {
		t.Cleanup(func() { response.Body.Close() })
	}
	return response, err
}

func TestAnUpstreamMayBeSilentForMinutes(t *testing.T) {
	gatetest.CodexBinary(t)
	t.Parallel()
	quiet := silence()
	pause := func(r *http.Request) {
		select {
		case <-time.After(quiet): // the silence itself is under test
		case <-r.Context().Done():
		}
	}
	const first, last = "data: first\n\n", "data: last\n\n"
	upstreams := map[string]http.HandlerFunc{
		"before the answer": func(w http.ResponseWriter, r *http.Request) {
			pause(r)
			_, _ = io.WriteString(w, first+last)
		},
		"within the answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, first)
			_ = http.NewResponseController(w).Flush()
			pause(r)
			_, _ = io.WriteString(w, last)
		},
	}
	// All at once, whatever -parallel says.
	var callers sync.WaitGroup
	defer callers.Wait()
	for where, answer := range upstreams {
		upstream := newUpstream(t)
		upstream.forget(answer)
		for who, p := range map[string]*proxy{
			"ours":         startOurs(t, upstream.responsesURL()),
			"the original": startOriginal(t, upstream.responsesURL()),
		} {
			callers.Go(func() {
				begin := time.Now()
				response, err := post(t, p)
				if err != nil {
					t.Errorf("%s, silence %s: %v", who, where, err)
					return
				}
				body, err := io.ReadAll(response.Body)
				if err != nil || response.StatusCode != http.StatusOK || string(body) != first+last {
					t.Errorf("%s, silence %s: status %d, body %q, error %v", who, where, response.StatusCode, body, err)
				}
				if took := time.Since(begin); took < quiet {
					t.Errorf("%s, silence %s: the answer took %v; the upstream was silent for %v", who, where, took, quiet)
				}
			})
		}
	}
}

func TestEveryEventArrivesBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	const events = 5
	upstream := newUpstream(t)
	arrived := make(chan struct{})
	upstream.forget(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for range events {
			_, _ = io.WriteString(w, "data: small\n\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-arrived:
			case <-r.Context().Done():
				return
			}
		}
	})
	response, err := post(t, startOurs(t, upstream.responsesURL()))
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(response.Body)
	for event := range events {
		// Were the event held back, neither side would go on: the bound is
		// that of the whole test binary.
		for _, want := range []string{"data: small\n", "\n"} {
			if line, err := in.ReadString('\n'); err != nil || line != want {
				t.Fatalf("event %d: %q, %v", event, line, err)
			}
		}
		arrived <- struct{}{}
	}
}

func TestTheOriginalHoldsSmallEventsBack(t *testing.T) {
	gatetest.CodexBinary(t)
	t.Parallel()
	upstream := newUpstream(t)
	sent, end := make(chan struct{}), make(chan struct{})
	upstream.forget(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: small\n\n")
		_ = http.NewResponseController(w).Flush()
		close(sent)
		<-end
	})
	p := startOriginal(t, upstream.responsesURL())
	first := make(chan struct{})
	go func() {
		defer close(first)
		if response, err := post(t, p); err != nil {
			t.Error(err)
		} else {
			_, _ = response.Body.Read(make([]byte, 1))
		}
	}()
	<-sent
	select {
	case <-first:
		t.Error("the original streams now: say so in docs/compatibility.md")
	case <-time.After(2 * time.Second): // that nothing comes is under test
	}
	close(end)
	<-first
}

func TestACallerWhoLeavesEndsTheRequestUpstream(t *testing.T) {
	t.Parallel()
	upstream := newUpstream(t)
	begun, ended := make(chan struct{}), make(chan struct{})
	upstream.forget(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: small\n\n")
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		close(ended)
	})
	response, err := post(t, startOurs(t, upstream.responsesURL()))
	if err != nil {
		t.Fatal(err)
	}
	<-begun
	response.Body.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the upstream goes on, at the operator's expense")
	}
}
