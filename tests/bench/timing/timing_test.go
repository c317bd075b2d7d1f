//go:build unix

// Package timing asks whether the time in which the gate refuses a wrong token
// tells how many of its leading characters were right:
//
//	go test ./tests/bench/timing -run WrongTokens -v -timing 30s
//
// measures each setting for 30 s, each beside a control that compares byte by
// byte and stops at the first difference, which the method must find. Without
// -timing, the settings are only put through, and no time is judged.
package timing

import (
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

var duration = flag.Duration("timing", 0, "how long to measure each setting; 0 is a few rounds without a verdict")

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

// leaks is the control: what a comparison must not be. slowness is how often
// each character is compared.
func leaks(presented, token string, slowness int) bool {
	if len(presented) != len(token) {
		return false
	}
	for i := range len(token) {
		for range slowness {
			sink += int(token[i])
		}
		if presented[i] != token[i] {
			return false
		}
	}
	return true
}

var sink int // keeps the compiler from leaving the work out

const (
	alphabet    = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	tokenLength = 43
)

// guess is a wrong token with so many right leading characters.
func guess(token string, right int) string {
	wrong := []byte(token[:right])
	for len(wrong) < len(token) {
		c := alphabet[rand.IntN(len(alphabet))]
		if len(wrong) != right || c != token[right] {
			wrong = append(wrong, c)
		}
	}
	return string(wrong)
}

// measure times refuse with guesses of every kind, in rounds of random order,
// so that whatever drifts touches all of them alike.
func measure(t *testing.T, token string, refuse func(guess string) time.Duration) []sample {
	t.Helper()
	if len(token) != tokenLength {
		t.Fatalf("the token has %d characters", len(token))
	}
	// All guesses are made before: what making one leaves in the processor's
	// caches and predictors differs with the number of right characters.
	var guesses [tokenLength][32]string
	for right := range guesses {
		for i := range guesses[right] {
			guesses[right][i] = guess(token, right)
			refuse(guesses[right][i]) // to warm up
		}
	}
	var samples []sample
	began := time.Now()
	for round := 0; round < 5 || time.Since(began) < *duration; round++ {
		for _, right := range rand.Perm(tokenLength) {
			took := refuse(guesses[right][rand.IntN(len(guesses[right]))])
			samples = append(samples, sample{right, float64(took.Nanoseconds())})
		}
	}
	return samples
}

// report measures a setting, says what came of it, and fails the test if it must
// not be so. What is told apart once may be the machine's: another program that
// begins at the wrong moment. A leak comes again, and on the same side.
func report(t *testing.T, setting string, leaky bool, take func() []sample) {
	t.Helper()
	judged := func() verdict {
		v := judge(take())
		t.Logf("%s: %v", setting, v)
		return v
	}
	if *duration == 0 {
		if n := len(take()); n < 5*tokenLength {
			t.Errorf("%s: %d samples", setting, n)
		}
		return
	}
	v := judged()
	switch {
	case leaky && (!v.toldApart() || v.slope <= 0):
		t.Errorf("%s: the method does not find the leak: it proves nothing here", setting)
	case !leaky && v.toldApart() && judged().side() == v.side():
		t.Errorf("%s: the time of a refusal depends on how much of the token was right", setting)
	}
}

// Over loopback, as another user on the host would measure.
func TestWrongTokensCannotBeToldApartOverLoopback(t *testing.T) {
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	report(t, "gate, loopback", false, func() []sample { return measure(t, g.Token, overLoopback(t, g.Addr)) })
	g.Up.SawNothing(t)

	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !leaks(r.Header.Get("X-Proxy-Token"), g.Token, 500) { // some 150 ns a character
			http.Error(w, "no", http.StatusUnauthorized)
		}
	}))
	defer control.Close()
	report(t, "control, loopback", true, func() []sample { return measure(t, g.Token, overLoopback(t, control.Listener.Addr().String())) })
}

// overLoopback refuses guesses over one connection.
func overLoopback(t *testing.T, addr string) func(string) time.Duration {
	t.Helper()
	conn := (&gatetest.Gate{Addr: addr}).Dial(t)
	_ = conn.SetDeadline(time.Now().Add(*duration + gatetest.Patience))
	return func(guess string) time.Duration {
		request := []byte(fmt.Sprintf("POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Proxy-Token: %s\r\nContent-Length: 0\r\n\r\n", guess))
		began := time.Now()
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Reader.Peek(1); err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		response, err := http.ReadResponse(conn.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		if response.StatusCode != http.StatusUnauthorized {
			t.Fatalf("a wrong token got %d", response.StatusCode)
		}
		return took
	}
}
