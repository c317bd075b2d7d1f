package responsesproxygate

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/follow"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

var tokenA, tokenB, tokenC = strings.Repeat("a", minTokenLength), strings.Repeat("b", minTokenLength), strings.Repeat("c", minTokenLength)

// followedToken is a caller whose token is in a file, which is followed, and
// what that logs.
func followedToken(t *testing.T, path string, others ...*configuredCaller) (*configuredCaller, *tokenSet, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	c := rotatingClient(t, "ci", publication{fixed: secret.New(tokenA)})
	file, _, err := openFollowedSecret("token", path, zap.New(core), c.metrics.rotations)
	if err != nil {
		t.Fatal(err)
	}
	c.tokenFile = file
	h := &Handler{config: 1, credential: newCredential("api-key", 1), callers: []*configuredCaller{c}}
	h.policy = &policy{tokens: newTokenSet(append(others, c), nil)}
	h.followSecrets(t.Context())
	time.Sleep(follow.Interval / 2)
	return c, h.policy.tokens, logs
}

func isTaken(tokens *tokenSet, token string) bool {
	_, ok := tokens.match(markOf(token))
	return ok
}

func TestAChangedTokenFileHoldsWithinTwoSeconds(t *testing.T) {
	w := watch(t, tokenA)
	synctest.Test(t, func(t *testing.T) {
		c, tokens, logs := followedToken(t, w.path)
		w.rename(t, tokenB, 0o600)
		time.Sleep(2 * time.Second)
		if !isTaken(tokens, tokenB) || c.inFile(t) != tokenB || c.told().Reveal() != tokenB {
			t.Errorf("the new token passes: %v; the caller is told %s", isTaken(tokens, tokenB), c.inFile(t))
		}
		if !isTaken(tokens, tokenA) || c.status(time.Now()).AcceptedTokens != 2 {
			t.Error("the former token has no grace")
		}
		w.rename(t, tokenC, 0o600)
		time.Sleep(2 * time.Second)
		if !isTaken(tokens, tokenC) || !isTaken(tokens, tokenB) || c.inFile(t) != tokenC {
			t.Error("the second change does not hold")
		}
		time.Sleep(defaultGrace)
		if isTaken(tokens, tokenA) || isTaken(tokens, tokenB) || !isTaken(tokens, tokenC) {
			t.Error("a former token outlives its grace, or the present one does not")
		}
		for _, entry := range logs.All() {
			if strings.Contains(entry.Message, tokenB) {
				t.Error("a token is in the log")
			}
		}
	})
}

func TestABrokenTokenFileLeavesTheOldTokenAndIsReported(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "short": "short", "another caller's": tokenC} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, tokenA)
			synctest.Test(t, func(t *testing.T) {
				other := rotatingClient(t, "other", publication{fixed: secret.New(tokenC)})
				c, tokens, logs := followedToken(t, w.path, other)
				w.rename(t, content, 0o600)
				time.Sleep(2 * time.Second)
				if !isTaken(tokens, tokenA) || c.inFile(t) != tokenA {
					t.Error("the old token ended")
				}
				if caller, ok := tokens.match(markOf(tokenC)); !ok || caller != other {
					t.Error("the other caller's token is not its own any more")
				}
				if logs.FilterLevelExact(zap.ErrorLevel).Len() != 1 {
					t.Errorf("logged %v", logs.All())
				}
				w.rename(t, tokenB, 0o600)
				time.Sleep(2 * time.Second)
				if !isTaken(tokens, tokenB) {
					t.Error("a file that was mended is not taken up")
				}
			})
		})
	}
}

// For a token that has leaked: revoke, then write the next one.
func TestARevokedTokenEndsAtOnceAndTheFilesNextOneHolds(t *testing.T) {
	w := watch(t, tokenA)
	synctest.Test(t, func(t *testing.T) {
		c, tokens, _ := followedToken(t, w.path)
		w.rename(t, tokenB, 0o600)
		time.Sleep(2 * time.Second)
		if err := c.revoke(); err != nil {
			t.Fatal(err)
		}
		if isTaken(tokens, tokenA) || isTaken(tokens, tokenB) || c.inFile(t) != "" {
			t.Error("a revoked token passes, or is told")
		}
		w.rename(t, tokenC, 0o600)
		time.Sleep(2 * time.Second)
		if !isTaken(tokens, tokenC) || isTaken(tokens, tokenA) || isTaken(tokens, tokenB) || c.inFile(t) != tokenC {
			t.Error("the next token does not hold, or brings former ones back")
		}
	})
}
