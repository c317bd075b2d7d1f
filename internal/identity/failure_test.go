package identity

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatMayPassIsTriedAgainAtTheStartAndWhatIsFinalIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		i.fail(down)
		w := newWorkload(t, i)
		defer w.begin()()
		time.AfterFunc(5*time.Second, func() { i.fail(nil) })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.First(ctx); err != nil {
			t.Errorf("an endpoint that was down for five seconds: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		i.fail(down)
		w := newWorkload(t, i)
		defer w.begin()()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.First(ctx); err == nil || !strings.Contains(err.Error(), "auth.openai.com broke the connection off") {
			t.Errorf("an endpoint that is down: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		i.fail(func(*http.Request) (*http.Response, error) { return answered(400, `{"error":"invalid_grant"}`), nil })
		w := newWorkload(t, i)
		defer w.begin()()
		begun := time.Now()
		if err := w.First(t.Context()); err == nil || !strings.Contains(err.Error(), "status 400 invalid_grant") || time.Since(begun) != 0 {
			t.Errorf("an endpoint that refuses: %v after %v", err, time.Since(begun))
		}
	})
}
