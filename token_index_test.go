package responsesproxygate

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// indexed is whether a token is looked up at all.
func indexed(token string) bool {
	return generatedTokens.ringOf(indexKeyOf(secret.DigestOf(token))) != nil
}

func TestAnEndedTokenIsNotLookedUpAnyMore(t *testing.T) {
	c := rotating(t, publication{})
	former := c.token.Now().Reveal()
	if !indexed(former) {
		t.Fatal("a token that is told is not looked up")
	}
	if err := c.rotate(0); err != nil {
		t.Fatal(err)
	}
	next := c.token.Now().Reveal()
	if indexed(former) || !indexed(next) || c.takes(former) || !c.takes(next) {
		t.Error("after a rotation, the former token is looked up, or the next one is not")
	}
	if err := c.revoke(); err != nil {
		t.Fatal(err)
	}
	if indexed(next) {
		t.Error("a revoked token is looked up")
	}
	if err := c.rotate(0); err != nil {
		t.Fatal(err)
	}
	last := c.token.Now().Reveal()
	if err := closeCaller(1, c.caller); err != nil {
		t.Fatal(err)
	}
	if indexed(last) {
		t.Error("a token is looked up whose caller is gone")
	}
}

// What is looked up tells nothing about tokens, to whoever measures how long
// it takes: the digest of a token is not in it.
func TestATokenIsLookedUpByWhatNobodyCanTell(t *testing.T) {
	digest := secret.DigestOf(testToken)
	for _, known := range []indexKey{
		indexKey(digest), sha256.Sum256(digest[:]), sha256.Sum256(append(make([]byte, len(indexSecret)), digest[:]...)),
	} {
		if indexKeyOf(digest) == known {
			t.Error("what a token is looked up by does not depend on a secret of the process")
		}
	}
}

// A generated token of one gate's caller is nothing to another gate, although
// both look it up in the same place.
func TestAGatesTokenIsNothingToAnotherGate(t *testing.T) {
	one, other := rotatingClient(t, "one", publication{}), rotatingClient(t, "other", publication{})
	if one.takes(other.token.Now().Reveal()) || !one.takes(one.token.Now().Reveal()) {
		t.Error("a set takes the token of a caller that is not in it, or not its own")
	}
}

func TestTheSeriesOfManyClientsAreBounded(t *testing.T) {
	watch := prometheus.NewRegistry()
	if err := registerMetrics(watch); err != nil {
		t.Fatal(err)
	}
	openGateMetrics(t.Name())
	var open []*configuredCaller
	begin := func(i int) {
		c, err := openCaller(callerID{gate: t.Name(), client: fmt.Sprint("c", i)}, 1)
		if err != nil {
			t.Fatal(err)
		}
		c.metrics.requests[outcomeForwarded.number].Inc()
		open = append(open, &configuredCaller{caller: c})
	}
	for i := range maxCounted + 100 {
		begin(i)
	}
	series := func() map[string]float64 {
		families, err := watch.Gather()
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]float64)
		for _, family := range families {
			if !strings.HasSuffix(family.GetName(), "gate_requests_total") {
				continue
			}
			for _, metric := range family.GetMetric() {
				labels := make(map[string]string)
				for _, pair := range metric.GetLabel() {
					labels[pair.GetName()] = pair.GetValue()
				}
				if labels["gate"] == t.Name() && labels["code"] == "forwarded" {
					found[labels["client"]] = metric.GetCounter().GetValue()
				}
			}
		}
		return found
	}
	if got := series(); len(got) != maxCounted+1 || got["c0"] != 1 || got[otherCallers] != 100 {
		t.Errorf("%d clients have series; that of the first is %v, and that of the others %v", len(got), got["c0"], got[otherCallers])
	}
	if err := closeCallers(1, t.Name(), open[:1]); err != nil {
		t.Fatal(err)
	}
	begin(maxCounted + 100)
	if got := series(); len(got) != maxCounted+1 || got["c600"] != 1 {
		t.Errorf("a client that comes for one that has left has no series: %d, %v", len(got), got["c600"])
	}
	if err := closeCallers(1, t.Name(), open[1:]); err != nil {
		t.Fatal(err)
	}
	if got := series(); len(got) != 1 {
		t.Errorf("after all have left, there are the series %v", got)
	}
	if _, err := gates.Delete(t.Name()); err != nil {
		t.Fatal(err)
	}
	if got := series(); len(got) != 0 {
		t.Errorf("of a gate that is gone, there are the series %v", got)
	}
}
