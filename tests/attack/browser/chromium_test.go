//go:build unix

package browser

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// patience is how long a test waits for an event that must come. It is long
// because the machine may be busy; a test that passes never waits it out.
const patience = 30 * time.Second

// chromiumBinary is the browser, or the end of the test.
func chromiumBinary(t *testing.T) string {
	t.Helper()
	binary, err := findChromium()
	if err != nil {
		gatetest.SkipOrFail(t, "REQUIRE_BROWSER", err)
	}
	return binary
}

var findChromium = sync.OnceValues(func() (string, error) {
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	if binary := os.Getenv("CHROMIUM_BINARY"); binary != "" {
		names = []string{binary}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no Chromium; install it (Debian: apt-get install chromium), or set CHROMIUM_BINARY")
})

// switchedOff are Chromium's own defences that would keep an attack from
// reaching the proxy at all, and what turns http://attacker.example into
// another page than the test means. Not every browser has them, and a person
// may answer their prompts with "allow": the gate has to do without. That the
// attacks reach the other two proxies shows that they are off.
var switchedOff = []string{
	"LocalNetworkAccessChecks", "LocalNetworkAccessChecksWebSockets", "LocalNetworkAccessChecksWebTransport",
	"LocalNetworkAccessForNavigations", "LocalNetworkAccessForWorkers",
	"BlockInsecurePrivateNetworkRequests", "PrivateNetworkAccessSendPreflights", "PrivateNetworkAccessRespectPreflightResults",
	"HttpsUpgrades", "HttpsFirstBalancedModeAutoEnable", "HttpsFirstModeV2ForEngagedSites",
	"BackForwardCache",               // whoever goes back asks again
	"SpareRendererForSitePerProcess", // costs time
	"Translate", "MediaRouter", "OptimizationHints",
}

// startBrowser starts a browser that knows the names of the test.
func startBrowser(t *testing.T, a *attacker) context.Context {
	t.Helper()
	binary := chromiumBinary(t)
	home := t.TempDir()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(binary),
		chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.NoInheritEnv,
		chromedp.Env("HOME="+home, "PATH="+os.Getenv("PATH")),
		chromedp.DisableGPU,
		chromedp.IgnoreCertErrors,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-features", strings.Join(switchedOff, ",")),
		// The attacker's names are on its server, wherever that listens. With a
		// port in the address, they are where its DNS says: on the victim's own
		// machine. Nothing else is to be found.
		chromedp.Flag("host-resolver-rules", strings.Join([]string{
			"MAP *.example:80 " + a.plain.Listener.Addr().String(),
			"MAP *.example:443 " + a.secure.Listener.Addr().String(),
			"MAP *.example 127.0.0.1",
			"MAP * ~NOTFOUND",
			"EXCLUDE 127.0.0.1", "EXCLUDE 0.0.0.0", "EXCLUDE localhost", "EXCLUDE *.localhost",
		}, ", ")),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox does not work for root
	}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, end := chromedp.NewContext(allocator)
	t.Cleanup(end)
	overdue := time.AfterFunc(2*patience, end) // a deadline on ctx would outlast the start
	defer overdue.Stop()
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting %s: %v", binary, err)
	}
	return ctx
}

// tab is a page in a browser profile of its own.
type tab struct{ context.Context }

func newTab(t *testing.T, browser context.Context) tab {
	t.Helper()
	ctx, end := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return tab{ctx}
}

// do does something to the page, with patience.
func (tab tab) do(t *testing.T, what string, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// load opens a page as a person does who types its address.
func (tab tab) load(t *testing.T, url string) {
	t.Helper()
	tab.do(t, "opening "+url, chromedp.Navigate(url))
}

// evaluate evaluates an expression in the page as if a person had clicked
// there, waits for its promise, and returns what comes of it.
func evaluate[T any](t *testing.T, tab tab, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, 2*patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise, func(p *runtime.EvaluateParams) {
		p.UserGesture = new(true)
	}))
	if err != nil {
		t.Fatalf("%.300s: %v", expression, err)
	}
	return value
}

// closeOthers closes the windows that the page has opened.
func (tab tab) closeOthers(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(tab, patience)
	defer cancel()
	own := chromedp.FromContext(tab)
	targets, err := chromedp.Targets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range targets {
		if other.Type == "page" && other.BrowserContextID == own.BrowserContextID && other.TargetID != own.Target.TargetID {
			// It may be gone already.
			_, _ = chromedp.CallBrowser(ctx, target.CloseTarget, target.CloseTargetParams{TargetID: other.TargetID})
		}
	}
}

// quoted is a value as JavaScript.
func quoted(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		panic(err) // strings and lists of them always encode
	}
	return string(encoded)
}
