//go:build unix

package browser

import (
	_ "embed"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
)

//go:embed page.js
var pageScript string

//go:embed worker.js
var workerScript string

// attacker is the server of the attacker's pages, over HTTP and HTTPS. The
// browser knows it under the names that startBrowser maps to it.
type attacker struct {
	plain, secure *httptest.Server

	mu    sync.Mutex
	wires map[string]*wire         // by port
	told  map[string]chan struct{} // what a page has to say, by name
}

func startAttacker(t *testing.T) *attacker {
	t.Helper()
	a := &attacker{wires: map[string]*wire{}, told: map[string]chan struct{}{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/page", servePage)
	mux.HandleFunc("/frame", serveFrame)
	mux.HandleFunc("/sw/frame", serveFrame)
	mux.HandleFunc("/worker.js", serveWorker)
	mux.HandleFunc("/sw/worker.js", serveWorker)
	mux.HandleFunc("/redirect", serveRedirect)
	mux.HandleFunc("/reports", serveReportingPage)
	mux.HandleFunc("/answered", a.awaitAnswered)
	mux.HandleFunc("/tell", a.hear)
	a.plain = httptest.NewUnstartedServer(mux)
	a.secure = httptest.NewUnstartedServer(mux)
	for _, server := range []*httptest.Server{a.plain, a.secure} {
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		t.Cleanup(func() {
			server.CloseClientConnections()
			server.Close()
		})
	}
	a.plain.Start()
	a.secure.StartTLS()
	return a
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// Connections are not kept: a page that is rebound needs a new one.
	w.Header().Set("Connection", "close")
	_, _ = io.WriteString(w, "<!doctype html><title>attacker</title><link rel=icon href=data:,><body><script>"+pageScript+"</script>")
}

// serveFrame serves what an attack wants to have in a frame of the attacker's origin.
func serveFrame(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if refresh := r.FormValue("refresh"); refresh != "" {
		w.Header().Set("Refresh", "0;url="+refresh)
	}
	if link := r.FormValue("link"); link != "" {
		w.Header().Set("Link", link)
	}
	_, _ = io.WriteString(w, r.FormValue("html"))
}

// serveReportingPage serves a page that breaks its own Content-Security-Policy,
// so that the browser reports it.
func serveReportingPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "img-src 'none'; report-uri "+r.FormValue("to"))
	_, _ = io.WriteString(w, "<!doctype html><img src=/nothing.png>")
}

func serveWorker(w http.ResponseWriter, r *http.Request) {
	allowAll(w, r)
	w.Header().Set("Content-Type", "text/javascript")
	_, _ = io.WriteString(w, workerScript)
}

// serveRedirect sends the browser elsewhere. A page may read that it was sent.
func serveRedirect(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions { // a preflight must not be redirected
		allowAll(w, r)
		return
	}
	query := r.URL.Query()
	code, err := strconv.Atoi(query.Get("code"))
	if err != nil || code < 300 || code > 399 {
		http.Error(w, "no code", http.StatusBadRequest)
		return
	}
	allowAll(w, r)
	w.Header().Set("Location", query.Get("to"))
	w.WriteHeader(code)
}

// wire is a new wire to a server, of which pages may ask whether it was answered.
func (a *attacker) wire(t *testing.T, to string) *wire {
	t.Helper()
	w := newWire(t, to)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wires[w.port] = w
	return w
}

// awaitAnswered tells a page when the request that it sent over a wire has
// its answer. Pages cannot see that themselves of a beacon, a form or a popup.
func (a *attacker) awaitAnswered(w http.ResponseWriter, r *http.Request) {
	allowAll(w, r)
	w.Header().Set("Connection", "close")
	a.mu.Lock()
	wire := a.wires[r.FormValue("port")]
	a.mu.Unlock()
	if wire == nil {
		http.Error(w, "no such wire", http.StatusNotFound)
		return
	}
	if _, ok := wire.answered(patience); !ok {
		http.Error(w, "nothing was sent", http.StatusGatewayTimeout)
	}
}

// heard is closed once a page has told this.
func (a *attacker) heard(what string) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told[what] == nil {
		a.told[what] = make(chan struct{})
	}
	return a.told[what]
}

// hear is where a page tells something, once.
func (a *attacker) hear(w http.ResponseWriter, r *http.Request) {
	allowAll(w, r)
	close(a.heard(r.URL.RawQuery))
}

// allowAll lets every page read the answer, as permissively as CORS can.
func allowAll(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != "" {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
	for asked, allow := range map[string]string{
		"Access-Control-Request-Method":  "Access-Control-Allow-Methods",
		"Access-Control-Request-Headers": "Access-Control-Allow-Headers",
	} {
		if value := r.Header.Get(asked); value != "" {
			w.Header().Set(allow, value)
		}
	}
}
