package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

const testSubject = "eyJTheWorkloadsOwnToken"

// staticSource is a workload that has one token.
type staticSource struct{}

func (staticSource) Check() error { return nil }

func (staticSource) subject(context.Context, *http.Client) (secret.Secret, *Failure) {
	return secret.New(testSubject), nil
}

// issuer is a token endpoint. Each of its tokens lives for life.
type issuer struct {
	mu     sync.Mutex
	life   time.Duration
	takes  time.Duration // how long an exchange takes
	answer func(*http.Request) (*http.Response, error)
	ends   map[string]time.Time
	asked  []time.Time
}

func newIssuer(life time.Duration) *issuer {
	return &issuer{life: life, ends: make(map[string]time.Time)}
}

// fail has exchanges answered by answer; nil: with tokens again.
func (i *issuer) fail(answer func(*http.Request) (*http.Response, error)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	i.asked = append(i.asked, time.Now())
	answer, takes := i.answer, i.takes
	i.mu.Unlock()
	if answer != nil {
		return answer(r)
	}
	time.Sleep(takes)
	i.mu.Lock()
	defer i.mu.Unlock()
	token := fmt.Sprintf("upstream-token-%d", len(i.ends))
	i.ends[token] = time.Now().Add(i.life)
	return answered(http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, token, i.life/time.Second)), nil
}

// takes reports whether the upstream takes a token now.
func (i *issuer) isValid(token string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return time.Now().Before(i.ends[token])
}

func (i *issuer) exchanges() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.asked)
}

func answered(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

func down(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }

// hangs never answers.
func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// workload is an exchanger, and one gate that follows it.
type workload struct {
	*Exchanger
	token atomic.Pointer[string]

	mu   sync.Mutex
	news []Outcome
}

func (w *workload) told() []Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]Outcome(nil), w.news...)
}

func newWorkload(t *testing.T, transport http.RoundTripper) *workload {
	t.Helper()
	w := &workload{Exchanger: newExchanger(Config{
		Endpoint: DefaultEndpoint, Provider: "idp_1", ServiceAccount: "sa_1", Source: staticSource{},
	}, &http.Client{Transport: transport, CheckRedirect: newClient().CheckRedirect})}
	w.Follow(&Follower{
		Token: func(token secret.Secret, _ time.Time) {
			text := token.Reveal()
			w.token.Store(&text)
		},
		Exchanged: func(failure *Failure, news, _ bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if news {
				w.news = append(w.news, failure.outcome())
			}
		},
	})
	return w
}

// begin starts the exchanges, and sees to their end.
func (w *workload) begin() (end func()) {
	w.start()
	return func() {
		w.Stop()
		<-w.ended
	}
}

// uses fails the test unless a request now gets a token that the upstream takes.
func (w *workload) uses(t *testing.T, i *issuer) {
	t.Helper()
	if err := w.Ready(t.Context()); err != nil {
		t.Fatalf("no token: %v", err)
	}
	if token := *w.token.Load(); !i.isValid(token) {
		t.Fatalf("%s is not valid any more", token)
	}
}

func TestATokenIsRenewedAheadOfItsEndWhetherOrNotAnybodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		defer w.begin()()
		w.uses(t, i)
		time.Sleep(36*time.Minute - time.Second)
		synctest.Wait()
		if n := i.exchanges(); n != 1 {
			t.Errorf("%d exchanges before six tenths of the token's life", n)
		}
		time.Sleep(12*time.Minute + 2*time.Second)
		synctest.Wait()
		if n := i.exchanges(); n != 2 {
			t.Errorf("%d exchanges at eight tenths of it, want 2", n)
		}
		w.uses(t, i)
	})
}

// Some 300 ends of tokens, with fifty callers.
func TestHundredsOfExpiriesUnderLoadFailNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Minute)
		i.takes = 400 * time.Millisecond
		w := newWorkload(t, i)
		defer w.begin()()
		var load sync.WaitGroup
		var requests atomic.Int64
		for caller := range 50 {
			load.Go(func() {
				for end := time.Now().Add(4 * time.Hour); time.Now().Before(end); time.Sleep(time.Second + time.Duration(caller)*37*time.Millisecond) {
					begun := time.Now()
					w.uses(t, i)
					if waited := time.Since(begun); waited > 0 && requests.Load() > 50 {
						t.Errorf("a request has waited %v, while a token lived", waited)
					}
					requests.Add(1)
				}
			})
		}
		load.Wait()
		if n := i.exchanges(); n < 4*60 || n > 4*60*5/3+1 {
			t.Errorf("%d exchanges in four hours of tokens that live a minute", n)
		}
		t.Logf("%d requests over %d tokens", requests.Load(), i.exchanges())
	})
}

func TestAnOutageIsSurvivedUntilTheTokensEndAndToldOnce(t *testing.T) {
	for name, answer := range map[string]func(*http.Request) (*http.Response, error){
		"down":     down,
		"slow":     hangs,
		"5xx":      func(*http.Request) (*http.Response, error) { return answered(503, "no"), nil },
		"4xx":      func(*http.Request) (*http.Response, error) { return answered(403, `{"error":"access_denied"}`), nil },
		"garbage":  func(*http.Request) (*http.Response, error) { return answered(200, "<html>"), nil },
		"redirect": func(*http.Request) (*http.Response, error) { return answered(307, ""), nil },
		"ends before it begins": func(*http.Request) (*http.Response, error) {
			return answered(200, `{"access_token":"t","expires_in":0}`), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newIssuer(time.Hour)
				w := newWorkload(t, i)
				defer w.begin()()
				w.uses(t, i)
				i.fail(answer)
				for range 59 {
					time.Sleep(time.Minute)
					begun := time.Now()
					w.uses(t, i)
					if waited := time.Since(begun); waited != 0 {
						t.Fatalf("a request waits %v while the token lives", waited)
					}
				}
				time.Sleep(time.Minute)
				failure := (*Failure)(nil)
				if err := w.Ready(t.Context()); !errors.As(err, &failure) {
					t.Fatalf("after the token's end: %v", err)
				}
				if told := w.told(); len(told) != 1 || told[0] != failure.Outcome {
					t.Errorf("told: %v", told)
				}
				if n := i.exchanges(); n > 1+7+30 {
					t.Errorf("%d exchanges in an outage of half an hour", n)
				}
				i.fail(nil)
				time.Sleep(2 * time.Minute)
				w.uses(t, i)
				if told := w.told(); len(told) != 2 || told[1] != OK {
					t.Errorf("told: %v", told)
				}
			})
		})
	}
}

func TestAllWhoWaitShareOneExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		i.takes = time.Second
		w := newWorkload(t, i)
		defer w.begin()()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { w.uses(t, i) })
		}
		all.Wait()
		if n := i.exchanges(); n != 1 {
			t.Errorf("%d exchanges for a hundred requests", n)
		}
		i.fail(down)
		time.Sleep(2 * time.Hour)
		before := i.exchanges()
		for range 100 {
			if w.Ready(t.Context()) == nil {
				t.Error("a token that has ended is used")
			}
		}
		if n := i.exchanges() - before; n > 1 {
			t.Errorf("%d exchanges for a hundred requests at once, in an outage", n)
		}
	})
}

func TestACallerWhoLeavesWaitsForNoExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		i.fail(hangs)
		w := newWorkload(t, i)
		defer w.begin()()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Ready(ctx); err == nil {
			t.Error("ready without a token")
		}
	})
}

// Ten processes on ten hosts that were started together.
func TestTenGatesAtOnceAreNoStampede(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		var all []*workload
		for range 10 {
			w := newWorkload(t, i)
			defer w.begin()()
			w.uses(t, i)
			all = append(all, w)
		}
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		seconds := make(map[int64]int)
		for _, at := range i.asked[10:] {
			seconds[at.Unix()]++
		}
		if len(i.asked) != 20 || len(seconds) < 7 {
			t.Errorf("%d exchanges, the second ones in %d seconds of twelve minutes", len(i.asked), len(seconds))
		}
		i.fail(down)
		time.Sleep(40 * time.Minute)
		before := i.exchanges()
		time.Sleep(10 * time.Minute)
		if n := i.exchanges() - before; n > 12*10 { // one a minute, of which a tenth or so is chance
			t.Errorf("%d exchanges of ten gates in ten minutes of an outage", n)
		}
		i.fail(nil)
		time.Sleep(2 * time.Minute)
		for _, w := range all {
			w.uses(t, i)
		}
	})
}

func TestATokenThatTheUpstreamRefusesIsExchangedOnceAndThenLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		defer w.begin()()
		w.uses(t, i)
		refused := *w.token.Load()
		for range 20 { // each of twenty requests is refused
			w.Renew()
		}
		w.uses(t, i)
		if n := i.exchanges(); n != 2 || *w.token.Load() == refused {
			t.Fatalf("%d exchanges, want one more than the first", n)
		}
		for range 600 { // the next ones, too
			w.Renew()
			time.Sleep(time.Second)
		}
		if n := i.exchanges() - 2; n < 10 || n > 16 { // 1, 2, 4, … 60, 60
			t.Errorf("%d exchanges in ten minutes of refusals", n)
		}
		w.Accepted()
		before := i.exchanges()
		w.Renew()
		w.uses(t, i)
		if i.exchanges() != before+1 {
			t.Error("a token that is refused after one was taken is not exchanged at once")
		}
	})
}

// An endpoint that is down makes no working token useless, if the upstream
// has refused it by mistake.
func TestARefusedTokenIsStillTriedIfThereIsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		defer w.begin()()
		w.uses(t, i)
		i.fail(down)
		w.Renew()
		w.uses(t, i)
		w.uses(t, i)
		if n := i.exchanges(); n != 2 {
			t.Errorf("%d exchanges", n)
		}
	})
}

func TestWhoFollowsLaterIsToldOfTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		defer w.begin()()
		w.uses(t, i)
		var tokens []string
		stop := w.Follow(&Follower{
			Token:     func(token secret.Secret, _ time.Time) { tokens = append(tokens, token.Reveal()) },
			Exchanged: func(*Failure, bool, bool) {},
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		stop()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if len(tokens) < 2 || len(tokens) > 3 || tokens[0] != "upstream-token-0" || tokens[1] != "upstream-token-1" {
			t.Errorf("told: %v", tokens)
		}
	})
}

func TestTheStateTellsOfTheTokenAndNothingInIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		if s := w.Status(); s.Left != 0 || s.Failure != nil {
			t.Errorf("before the first exchange: %+v", s)
		}
		defer w.begin()()
		w.uses(t, i)
		if left := w.Status().Left; left != time.Hour-5*time.Second {
			t.Errorf("the token lives for %v more", left)
		}
		i.fail(down)
		time.Sleep(2 * time.Hour)
		if s := w.Status(); s.Left > 0 || s.Failure == nil {
			t.Errorf("after the end, in an outage: %+v", s)
		}
		shown, err := json.Marshal(w.Status())
		if err != nil || bytes.Contains(shown, []byte("token-")) || bytes.Contains(shown, []byte(testSubject)) {
			t.Errorf("%s %v", shown, err)
		}
	})
}
