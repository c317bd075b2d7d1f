//go:build unix

package browser

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/chromedp/chromedp"
)

// Some requests a page brings about through the person before the screen. Of
// these, browsers may say that no site is behind them.
func TestAPersonWhoOpensReloadsOrGoesBackDoesNotHelpAPage(t *testing.T) {
	t.Parallel()
	b := startBattle(t)
	tab := newTab(t, b.browser)
	const page = "http://attacker.example"
	opensARedirect := func(code string) func(*testing.T, victim) {
		return func(t *testing.T, victim victim) {
			tab.visit(t, chromedp.Navigate(page+"/redirect?"+url.Values{"code": {code}, "to": {victim.withTokenInURL()}}.Encode()))
		}
	}
	for _, c := range []struct {
		harm            string
		do              func(t *testing.T, victim victim)
		original, stock fate
		requests        int
	}{
		{"opens an address that redirects by 302", opensARedirect("302"), stopped, spends, 1},
		{"opens an address that redirects by 307", opensARedirect("307"), stopped, spends, 1},
		{"reloads what a page's form has come to", func(t *testing.T, victim victim) {
			tab.load(t, page+"/page")
			tab.follow(t, "makeForm("+quoted(victim.withTokenInURL())+", 'text/plain').submit()")
			tab.visit(t, chromedp.Reload())
		}, spends, spends, 2},
		{"reloads what a page's link has led to", func(t *testing.T, victim victim) {
			tab.load(t, page+"/page")
			tab.follow(t, "location = "+quoted(victim.withTokenInURL()))
			tab.visit(t, chromedp.Reload())
		}, stopped, spends, 2},
		{"goes back to what a page's link has led to", func(t *testing.T, victim victim) {
			tab.load(t, page+"/page")
			tab.follow(t, "location = "+quoted(victim.withTokenInURL()))
			tab.load(t, page+"/page")
			tab.visit(t, chromedp.NavigateBack())
		}, stopped, spends, 2},
	} {
		t.Run(c.harm, func(t *testing.T) {
			victims := b.victims(t)
			for _, victim := range victims {
				c.do(t, victim)
			}
			v := vector{harm: c.harm, original: c.original, stock: c.stock}
			for _, victim := range victims {
				if victim.control != nil && victim.control.fate(v) == stopped {
					continue // Chromium shows its bare refusal as an error, and need not ask again
				}
				exchanges, ok := victim.wire.await(patience, func(all []exchange) bool {
					icons := 0
					for _, e := range all {
						if e.isForIcon() {
							icons++
						}
					}
					return len(all)-icons >= c.requests
				})
				if !ok {
					t.Errorf("%s: it got %d requests, want %d", victim.who, len(exchanges), c.requests)
				}
			}
			v.judge(t, victims, make([]string, len(victims)))
		})
	}
	b.nothingCameThrough(t)
}

// withTokenInURL is the attacked address with the token where an address has
// room for one.
func (victim victim) withTokenInURL() string {
	u, err := url.Parse(victim.URL)
	if err != nil {
		panic(err) // made by victims
	}
	if victim.Token != "" {
		u.User = url.UserPassword("x", victim.Token)
	}
	return u.String()
}

// follow lets a script of the page lead the tab elsewhere.
func (tab tab) follow(t *testing.T, script string) {
	t.Helper()
	tab.visit(t, func(ctx context.Context, _ *chromedp.Target) (chromedp.Void, error) {
		_, err := chromedp.RunResponse(ctx, chromedp.Evaluate[chromedp.Void](script))
		return chromedp.Void{}, err
	})
}

// visit leads the tab to a victim, and waits until it is there. To the
// browser, a refusal without a body is an error.
func (tab tab) visit(t *testing.T, step chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	err := chromedp.Do(ctx, step)
	if failed := (*chromedp.LoadError)(nil); errors.As(err, &failed) && failed.ErrorText == "net::ERR_HTTP_RESPONSE_CODE_FAILURE" {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
}
