//go:build unix

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// bankedRounds is how many requests each way of calling, each framing and each
// upstream is tried with.
const bankedRounds = 20

// arrival is a request at the upstream.
type arrival struct {
	body []byte
	err  error // with which it ended; nil: it is whole
}

// bankUpstream is an upstream that tells when a request has begun, and what
// became of it.
func bankUpstream(t *testing.T) (url string, begun chan struct{}, ended chan arrival) {
	t.Helper()
	begun, ended = make(chan struct{}, 1), make(chan arrival, 1)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		body, err := io.ReadAll(r.Body)
		ended <- arrival{body, err}
		gatetest.AnswerJSON(w, r)
	}))
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetHTTP1(true)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(up.Close)
	return up.URL, begun, ended
}

// Whatever a caller has sent when its access ends, and however it is sent: the
// upstream never gets a whole request of after that.
func TestABankedRequestIsNotFinishedHoweverItIsSent(t *testing.T) {
	t.Parallel()
	for upstream, proxy := range map[string]string{
		"to HTTP/1": "transport http {\nversions 1.1\n}", "to HTTP/2": "transport http {\nversions h2c\n}",
	} {
		t.Run(upstream, func(t *testing.T) {
			t.Parallel()
			url, begun, ended := bankUpstream(t)
			g, config := startTLSSite(t, gatetest.NewUpstream(t, nil), gatetest.Site{To: url, Proxy: proxy})
			admin := gatetest.UnixClient(t, g.Site.AdminSocket())
			h1, h2, h3 := gatetest.NewClient(t), gatetest.NewClient(t), &http3.Transport{TLSClientConfig: config.Clone()}
			defer h3.Close()
			h1.Transport.(*http.Transport).TLSClientConfig = config.Clone()
			h2.Transport.(*http.Transport).TLSClientConfig, h2.Transport.(*http.Transport).ForceAttemptHTTP2 = config.Clone(), true
			for proto, client := range map[string]*http.Client{"HTTP/1.1": h1, "HTTP/2.0": h2, "HTTP/3.0": {Transport: h3}} {
				for round := range 2 * bankedRounds {
					// A prompt, and how much of it is sent before the access ends.
					prompt := bytes.Repeat([]byte("x"), 2+rand.IntN(1<<rand.IntN(17)))
					before := rand.IntN(len(prompt))
					if rand.IntN(3) == 0 {
						before = len(prompt) - 1
					}
					length, revoked := int64(len(prompt)), round%4 != 3
					if round%2 == 1 {
						length = -1
					}
					what := fmt.Sprintf("%s, length %d, %d of %d bytes, revoked %t", proto, length, before, len(prompt), revoked)
					body, send := io.Pipe()
					go func() {
						_, _ = send.Write(prompt[:before])
						<-begun
						if revoked {
							r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/responses_proxy_gate/gates/default/clients/default/rotate",
								bytes.NewReader([]byte(`{"grace":"0s"}`)))
							r.Header.Set("Content-Type", "application/json")
							if got := gatetest.Do(t, admin, r); got.Status != http.StatusOK {
								t.Errorf("the rotation is answered %d %s", got.Status, got.Body)
							}
						}
						_, _ = send.Write(prompt[before:])
						_ = send.Close()
					}()
					answer, err := client.Do(g.Post(overTLS, gatetest.WithDeadline(t), func(r *http.Request) {
						r.Body, r.ContentLength, r.GetBody = body, length, nil
						r.Header.Set("Authorization", "Bearer "+gatetest.ReadInfo(t, g.Site.InfoPath()).AuthToken)
					}))
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					got, at := gatetest.ReadAnswer(t, answer), <-ended
					switch {
					case answer.Proto != proto:
						t.Fatalf("%s: it was %s", what, answer.Proto)
					case revoked && (got.Status != http.StatusUnauthorized || !strings.Contains(got.Body, "access_ended")):
						t.Errorf("%s: answered %d %s", what, got.Status, got.Body)
					case revoked && (at.err == nil || len(at.body) == len(prompt)):
						t.Errorf("%s: the upstream has %d bytes, %v", what, len(at.body), at.err)
					case !revoked && (got.Status != http.StatusOK || at.err != nil || !slices.Equal(at.body, prompt)):
						t.Errorf("%s: the control: answered %d, the upstream has %d bytes, %v", what, got.Status, len(at.body), at.err)
					}
				}
			}
		})
	}
}
