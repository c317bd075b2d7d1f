package budget

import (
	"errors"
	"net/http"
	"net/http/httptrace"
	"testing"
)

// (An error route can be behind the budget, in a subroute.)
func TestWhatAnErrorRouteTellsIsNotWhatTheUpstreamDid(t *testing.T) {
	for name, c := range map[string]struct {
		sent     bool
		err      error
		answered int
		output   int64
	}{
		"sent, and not answered":  {true, nil, 0, defaultOutput},
		"sent, and answered":      {true, nil, http.StatusOK, defaultOutput},
		"sent, and refused":       {true, nil, http.StatusTooManyRequests, -3},
		"not sent whole":          {true, errors.New("broken pipe"), 0, -3},
		"no upstream was reached": {false, nil, 0, -3},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 100_000}}})
			call(t, h, "codex", `{"a":1}`, handlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				trace := httptrace.ContextClientTrace(r.Context())
				trace.GetConn("upstream")
				if c.sent {
					trace.WroteRequest(httptrace.WroteRequestInfo{Err: c.err})
				}
				if c.answered != 0 {
					replacerOf(r).Set(upstreamStatus, c.answered)
				}
				w.WriteHeader(http.StatusBadGateway)
				return nil
			}))
			if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 3+c.output || got.Estimated != got.Tokens() || got.Calls() != 1 {
				t.Errorf("it is charged %+v", got)
			}
		})
	}
}

// Else an upstream whose TLS handshake fails would use up a caller's budget, by as many requests as clients repeat.
func TestAnUpstreamThatIsNotReachedCostsNothingWhateverTheErrorIs(t *testing.T) {
	for name, c := range map[string]struct {
		sent   bool
		output int64
	}{"not sent": {false, -3}, "sent, which is the control": {true, defaultOutput}} {
		t.Run(name, func(t *testing.T) {
			h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 100_000}}})
			call(t, h, "codex", `{"a":1}`, handlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				trace := httptrace.ContextClientTrace(r.Context())
				trace.GetConn("upstream")
				if c.sent {
					trace.WroteRequest(httptrace.WroteRequestInfo{})
				}
				return errors.New("tls: handshake failure")
			}))
			if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 3+c.output || got.Calls() != 1 {
				t.Errorf("it is charged %+v", got)
			}
		})
	}
}
