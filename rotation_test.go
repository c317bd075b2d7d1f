package responsesproxygate

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// rotating is a published caller with a server-info file.
func rotating(t *testing.T, p publication) *configuredCaller {
	t.Helper()
	return rotatingClient(t, "codex", p)
}

// rotatingClient is one of several published callers of a gate.
func rotatingClient(t *testing.T, client string, p publication) *configuredCaller {
	t.Helper()
	file, err := infofile.New(filepath.Join(t.TempDir(), "info.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	const config = 1
	state, err := openCaller(callerID{gate: t.Name(), client: client}, config)
	if err != nil {
		t.Fatal(err)
	}
	c := &configuredCaller{caller: state, name: client, file: file}
	if p.hasFixedToken() {
		c.fix(p.fixed)
	}
	c.ends = p.ends
	p.file, p.logger = file, zap.NewNop()
	p.info = infofile.Info{Port: 1, PID: 1, BaseURL: "http://127.0.0.1/v1"}
	t.Cleanup(func() {
		if !c.gone.Load() {
			if err := closeCaller(config, state); err != nil {
				t.Error(err)
			}
		}
	})
	c.start(config)
	if err := c.publish(config, p); err != nil {
		t.Fatal(err)
	}
	return c
}

// inFile is the token that the caller's server-info file tells, or "".
func (c *configuredCaller) inFile(t *testing.T) string {
	t.Helper()
	info, err := infofile.Read(c.file.Path())
	if os.IsNotExist(err) || err != nil && info.Token.Reveal() == "" {
		return ""
	}
	return info.Token.Reveal()
}

func (c *configuredCaller) takes(token string) bool {
	_, ok := newTokenSet([]*configuredCaller{c}, nil).match(markOf(token))
	return ok
}

func TestAnOldTokenWorksDuringTheGraceAndNotAMomentLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{rotation: &rotation{interval: time.Hour, grace: time.Minute}})
		first := c.inFile(t)
		time.Sleep(time.Hour - time.Nanosecond)
		synctest.Wait()
		if c.inFile(t) != first {
			t.Fatal("rotated before it was due")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		second := c.inFile(t)
		if second == first || second == "" {
			t.Fatal("not rotated when it was due")
		}
		if !c.takes(first) || !c.takes(second) {
			t.Error("during the grace, one of the two tokens is refused")
		}
		time.Sleep(time.Minute - time.Nanosecond)
		if !c.takes(first) {
			t.Error("the old token is refused before its grace is over")
		}
		time.Sleep(time.Nanosecond)
		if c.takes(first) {
			t.Error("the old token outlives its grace")
		}
		if !c.takes(second) {
			t.Error("the new token ended with the old one")
		}
		for range 30 { // the rotations go on, and leave nothing behind
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if c.takes(second) || !c.takes(c.inFile(t)) {
			t.Error("after many rotations, a former token is taken or the present one is not")
		}
		if n := len(c.ring.tokens()); n > 2 {
			t.Errorf("%d tokens are kept", n)
		}
	})
}

func TestALeakedTokenEndsAtOnceWithGraceZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{rotation: &rotation{interval: time.Hour, grace: 50 * time.Minute}})
		leaked := c.inFile(t)
		if err := c.rotate(30 * time.Minute); err != nil {
			t.Fatal(err)
		}
		ctx, done := c.sessions.begin(t.Context())
		defer done()
		if !c.takes(leaked) || ctx.Err() != nil {
			t.Error("a rotation with grace ends what it should not")
		}
		if err := c.rotate(0); err != nil {
			t.Fatal(err)
		}
		if c.takes(leaked) {
			t.Error("the leaked token, in an earlier grace, is still taken")
		}
		if ctx.Err() == nil {
			t.Error("the WebSocket that was opened with it goes on")
		}
		if !c.takes(c.inFile(t)) {
			t.Error("the new token is not taken")
		}
	})
}

// A later rotation must not prolong an earlier token's grace.
func TestAGraceIsNeverProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{})
		first := c.inFile(t)
		if err := c.rotate(time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := c.rotate(time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if c.takes(first) {
			t.Error("the first token's grace was prolonged")
		}
	})
}

func TestGracesDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{})
		for i := range maxAccepted - 1 {
			if err := c.rotate(time.Hour); err != nil {
				t.Fatalf("rotation %d: %v", i, err)
			}
		}
		if err := c.rotate(time.Hour); err != errManyTokens {
			t.Errorf("one more: %v", err)
		}
		if !c.takes(c.inFile(t)) {
			t.Error("the refused rotation ended the present token")
		}
		time.Sleep(time.Hour)
		if err := c.rotate(time.Hour); err != nil {
			t.Errorf("once their grace is over: %v", err)
		}
	})
}

func TestAnAccessThatExpiresTakesEverythingWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{ends: time.Now().Add(8 * time.Hour), rotation: &rotation{interval: 3 * time.Hour, grace: time.Hour}})
		ctx, done := c.sessions.begin(context.Background())
		defer done()
		time.Sleep(8*time.Hour - time.Nanosecond)
		synctest.Wait()
		last := c.inFile(t)
		if !c.takes(last) || ctx.Err() != nil {
			t.Fatal("it ended too early")
		}
		time.Sleep(time.Nanosecond)
		if c.takes(last) {
			t.Error("the token outlives the access")
		}
		synctest.Wait()
		if ctx.Err() == nil || c.inFile(t) != "" {
			t.Error("the WebSocket or the file outlives the access")
		}
		if err := c.rotate(0); err != errExpired {
			t.Errorf("a rotation brings it back: %v", err)
		}
		longer := c.current
		longer.ends = c.began.Add(24 * time.Hour)
		c.ends = longer.ends
		if err := c.publish(1, longer); err != nil {
			t.Fatal(err)
		}
		prolonged := c.inFile(t)
		if !c.takes(prolonged) || prolonged == last || c.takes(last) {
			t.Errorf("after a reload with a longer one, the file has a token that passes: %t; another one: %t; the former one passes: %t",
				c.takes(prolonged), prolonged != last, c.takes(last))
		}
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if next := c.inFile(t); next == prolonged || !c.takes(next) {
			t.Error("it is not rotated any more")
		}
		if err := c.rotate(0); err != nil || !c.takes(c.inFile(t)) {
			t.Errorf("a rotation on demand: %v", err)
		}
	})
}

func TestAnAccessThatAReloadEndsTakesEverythingWithIt(t *testing.T) {
	for name, p := range map[string]publication{
		"of a generated token": {},
		"of a fixed token":     {fixed: secret.New(strings.Repeat("f", minTokenLength))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := rotating(t, p)
				ctx, done := c.sessions.begin(context.Background())
				defer done()
				token := c.inFile(t)
				time.Sleep(time.Hour)
				shorter := c.current
				shorter.ends = c.began.Add(time.Minute) // it was over before this reload
				c.ends = shorter.ends
				if err := c.publish(1, shorter); err != nil {
					t.Fatal(err)
				}
				if c.takes(token) || c.inFile(t) != "" || ctx.Err() == nil {
					t.Errorf("the token passes: %t; the file has %q; the WebSocket: %v", c.takes(token), c.inFile(t), ctx.Err())
				}
			})
		})
	}
}

func TestARevokedCallerStaysOutUntilItGetsANewToken(t *testing.T) {
	c := rotating(t, publication{rotation: &rotation{interval: time.Hour, grace: time.Minute}})
	token := c.inFile(t)
	ctx, done := c.sessions.begin(t.Context())
	defer done()
	if err := c.revoke(); err != nil {
		t.Fatal(err)
	}
	if c.takes(token) || ctx.Err() == nil || c.inFile(t) != "" {
		t.Error("the token, the WebSocket or the file is still there")
	}
	if err := c.publish(1, c.current); err != nil { // a reload
		t.Fatal(err)
	}
	if c.takes(token) || c.inFile(t) != "" {
		t.Error("a reload brings it back")
	}
	if err := c.rotate(time.Hour); err != nil {
		t.Fatal(err)
	}
	if c.takes(token) || !c.takes(c.inFile(t)) {
		t.Error("a rotation brings the old token back, or gives no new one")
	}
}

func TestAFixedTokenCanBeRevokedAndNotRotated(t *testing.T) {
	token := secret.New(testToken)
	c := rotating(t, publication{fixed: token})
	if err := c.rotate(0); err != errFixedToken {
		t.Errorf("rotated: %v", err)
	}
	if !c.takes(testToken) {
		t.Fatal("the refused rotation ended the token")
	}
	if err := c.revoke(); err != nil {
		t.Fatal(err)
	}
	if c.takes(testToken) || c.inFile(t) != "" {
		t.Error("it is still taken, or told")
	}
	for range 3 { // again changes nothing
		if err := c.revoke(); err != nil || len(c.revokedTokens()) != 1 {
			t.Errorf("revoked again: %v; %d tokens are revoked", err, len(c.revokedTokens()))
		}
	}
}

func TestAnotherFixedTokenTakesTheRevokedOnesPlace(t *testing.T) {
	c := rotating(t, publication{fixed: secret.New(testToken)})
	if err := c.revoke(); err != nil {
		t.Fatal(err)
	}
	const other = "another-fixed-token-of-the-operators-choice"
	next := c.current
	next.fixed = secret.New(other)
	c.fix(next.fixed)
	if err := c.publish(1, next); err != nil { // a reload
		t.Fatal(err)
	}
	if c.inFile(t) != other || !c.takes(other) {
		t.Error("the new token is not told, or not taken")
	}
	next.fixed = secret.New(testToken)
	c.fix(next.fixed)
	if err := c.publish(1, next); err != nil {
		t.Fatal(err)
	}
	if c.inFile(t) != "" || c.takes(testToken) {
		t.Error("a reload brings the revoked token back")
	}
}

// For a disk that is full: callers go on with what they can read.
func TestARotationThatCannotBeToldChangesNothing(t *testing.T) {
	c := rotating(t, publication{})
	token := c.inFile(t)
	elsewhere, err := infofile.New(filepath.Join(c.file.Path(), "below-a-file.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	c.current.file = elsewhere
	if c.rotate(time.Minute) == nil {
		t.Fatal("rotated without telling")
	}
	if !c.takes(token) || len(c.ring.tokens()) != 1 || c.told().Reveal() != token {
		t.Error("the old token ended, or the new one is taken")
	}
	if c.rotate(0) == nil {
		t.Fatal("rotated without telling")
	}
	if c.takes(token) {
		t.Error("a leaked token survives a full disk")
	}
	c.current.file = c.file
	if err := c.rotate(0); err != nil || !c.takes(c.inFile(t)) {
		t.Errorf("it does not recover: %v", err)
	}
}

// Whoever has just read a token has it accepted; whoever has one that was
// ended has it refused. There is no moment between.
func TestTwentyThousandRotationsNeverLockOutAndNeverLetIn(t *testing.T) {
	c := rotating(t, publication{})
	c.current.file = nil // without waiting for the disk; the order is the same
	c.current.stderr = io.Discard
	var told, ended atomic.Pointer[string] // the newest that was told; the newest that has ended
	tell := func(p *atomic.Pointer[string], s secret.Secret) { text := s.Reveal(); p.Store(&text) }
	tell(&told, c.told())
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if dead := ended.Load(); dead != nil && c.takes(*dead) {
					t.Error("a token that has ended is taken")
					return
				}
				// A token may end between reading and presenting it; if it
				// is still the one that is told after it was refused, nothing
				// was valid at that moment.
				if now := *told.Load(); !c.takes(now) && *told.Load() == now && c.told().Reveal() == now {
					t.Error("the token that is told is refused")
					return
				}
			}
		})
	}
	for i := range 20_000 {
		former := c.told()
		grace := time.Duration(0)
		if i%3 != 0 {
			grace = time.Nanosecond
		}
		if err := c.rotate(grace); err != nil {
			t.Fatal(err)
		}
		tell(&told, c.told())
		if grace == 0 {
			tell(&ended, former)
		}
	}
	close(stop)
	wait.Wait()
}

func TestARotationPlanIsCheckedInTheConfig(t *testing.T) {
	grace := func(d time.Duration) *caddy.Duration { return (*caddy.Duration)(&d) }
	for name, c := range map[string]struct {
		plan  Rotation
		grace time.Duration
		ok    bool
	}{
		"an hour has five minutes' grace":    {Rotation{Interval: caddy.Duration(time.Hour)}, 5 * time.Minute, true},
		"a short interval has half of it":    {Rotation{Interval: caddy.Duration(time.Minute)}, 30 * time.Second, true},
		"a grace of its own":                 {Rotation{caddy.Duration(time.Hour), grace(time.Minute)}, time.Minute, true},
		"no grace at all":                    {Rotation{caddy.Duration(time.Hour), grace(0)}, 0, true},
		"a grace as long as the interval":    {Rotation{caddy.Duration(time.Hour), grace(time.Hour)}, 0, false},
		"a negative grace":                   {Rotation{caddy.Duration(time.Hour), grace(-1)}, 0, false},
		"an interval of less than a second":  {Rotation{Interval: caddy.Duration(time.Second - 1)}, 0, false},
		"an interval that was not filled in": {Rotation{}, 0, false},
	} {
		plan, err := c.plan.resolve()
		if (err == nil) != c.ok || err == nil && plan.grace != c.grace {
			t.Errorf("%s: %v, %v", name, plan, err)
		}
	}
}
