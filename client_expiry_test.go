package responsesproxygate

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

func TestAnExpiryIsADurationOrAMoment(t *testing.T) {
	const moment = "2027-03-31T18:00:00Z"
	at, err := time.Parse(time.RFC3339, moment)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for text, c := range map[string]struct {
		ends time.Time
		json string
	}{
		`"` + moment + `"`:            {at, `"` + moment + `"`},
		`"2027-03-31T20:00:00+02:00"`: {at, `"2027-03-31T20:00:00+02:00"`},
		`"12h"`:                       {began.Add(12 * time.Hour), "43200000000000"},
		`"1d"`:                        {began.Add(24 * time.Hour), "86400000000000"},
		`43200000000000`:              {began.Add(12 * time.Hour), "43200000000000"},
		`0`:                           {time.Time{}, "0"},
	} {
		var e Expiry
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := e.ends(began); !got.Equal(c.ends) {
			t.Errorf("%s ends at %v, want %v", text, got, c.ends)
		}
		if got, err := json.Marshal(e); err != nil || string(got) != c.json {
			t.Errorf("%s is written as %s, %v", text, got, err)
		}
	}
	for _, text := range []string{`"0s"`, `"-1h"`, `"tomorrow"`, `"2027-03-31"`, `"2027-03-31T18:00:00"`, `"sk-proj-secret"`, `""`, `{}`, `true`} {
		var e Expiry
		if err := json.Unmarshal([]byte(text), &e); err == nil || !strings.HasPrefix(err.Error(), "expires: ") || strings.Contains(err.Error(), "sk-") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A fixed token outlives the launch, and a restart would come before the end.
func TestAnExpiryThatEveryRestartBeginsAgainIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		client Client
		says   string
	}{
		"with a fixed token":          {Client{Token: "{env.X}", Expires: Expiry{after: time.Hour}}, "write the moment instead, such as: expires 20"},
		"for longer than a day":       {Client{Expires: Expiry{after: 24*time.Hour + 1}}, "write the moment instead, such as: expires 20"},
		"negative":                    {Client{Expires: Expiry{after: -1}}, "negative"},
		"a moment, and a fixed token": {Client{Token: "{env.X}", Expires: Expiry{at: time.Now()}}, ""},
		"a day":                       {Client{Expires: Expiry{after: 24 * time.Hour}}, ""},
		"none":                        {Client{Token: "{env.X}"}, ""},
	} {
		c.client.Name = "ci"
		err := validateClients("gate", []Client{c.client})
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestAMomentEndsAFixedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := Expiry{at: time.Now().Add(time.Hour).Round(0)}.ends(time.Now()) // without a monotonic reading
		c := rotating(t, publication{fixed: secret.New(testToken), ends: ends})
		ctx, done := c.sessions.begin(context.Background())
		defer done()
		time.Sleep(time.Hour - time.Nanosecond)
		synctest.Wait()
		if !c.takes(testToken) || ctx.Err() != nil {
			t.Error("it ended too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if c.takes(testToken) || ctx.Err() == nil || c.inFile(t) != "" {
			t.Error("the token, the WebSocket or the file outlives the access")
		}
	})
}

// A verb may ask in the time between a moment that the clock was set beyond
// and the next look at it.
func TestAnEndThatAClockSkippedIsStillCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{ends: time.Now().Add(time.Hour)})
		c.mu.Lock()
		c.current.ends = time.Now() // as if the clock was set an hour ahead
		c.mu.Unlock()
		if err := c.rotate(0); err != errExpired {
			t.Errorf("a rotation after the end: %v", err)
		}
		time.Sleep(longestNap)
		synctest.Wait()
		if c.inFile(t) != "" {
			t.Error("the file outlives the access")
		}
	})
}
