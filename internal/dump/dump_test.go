//go:build !windows

package dump

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	testToken = "gate-token-0123456789-0123456789-0123456789"
	testKey   = "sk-proj-0123456789abcdef0123456789abcdef"
)

func TestDumpsHaveTheShapeOfTheOriginals(t *testing.T) {
	dir, d, _ := newDumper(t)
	r := newRequest(`{"model":"gpt-5.4"}`)
	r.Host = "" // the original's own example has no more headers than these
	dumpExchange(d, r, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "data: hello\n\n")
	})
	d.Close()
	wantRequest := `{
  "method": "POST",
  "url": "/v1/responses",
  "headers": [
    {
      "name": "Authorization",
      "value": "[REDACTED]"
    },
    {
      "name": "Content-Type",
      "value": "application/json"
    }
  ],
  "body": {
    "model": "gpt-5.4"
  }
}
`
	wantResponse := `{
  "status": 200,
  "headers": [
    {
      "name": "content-type",
      "value": "text/event-stream"
    }
  ],
  "body": "data: hello\n\n"
}
`
	request, response := onlyDump(t, dir)
	if request != wantRequest {
		t.Errorf("request dump:\n%s\nwant:\n%s", request, wantRequest)
	}
	if response != wantResponse {
		t.Errorf("response dump:\n%s\nwant:\n%s", response, wantResponse)
	}
}

func TestDumpsAreNamedAsTheOriginals(t *testing.T) {
	dir, d, _ := newDumper(t)
	before := time.Now().UnixMilli()
	for range 2 {
		dumpExchange(d, newRequest(`{}`), answerDumped)
	}
	d.Close()
	names := dumpNames(t, dir)
	if len(names) != 4 {
		t.Fatalf("files: %q; want a request and a response of each of two exchanges", names)
	}
	pattern := regexp.MustCompile(`^(\d{6})-(\d{13})-(request|response)\.json$`)
	for i, name := range names {
		found := pattern.FindStringSubmatch(name)
		if found == nil {
			t.Fatalf("%s: is not <6 digits>-<unix ms>-<request|response>.json", name)
		}
		if want := fmt.Sprintf("%06d", i/2+1); found[1] != want {
			t.Errorf("%s: number %s, want %s", name, found[1], want)
		}
		if ms, _ := strconv.ParseInt(found[2], 10, 64); ms < before || ms > time.Now().UnixMilli() {
			t.Errorf("%s: %d is not when the exchange began", name, ms)
		}
		if want := []string{"request", "response"}[i%2]; found[3] != want {
			t.Errorf("%s: want a %s", name, want)
		}
	}
	if strings.TrimSuffix(names[0], "request.json") != strings.TrimSuffix(names[1], "response.json") {
		t.Errorf("%s and %s do not share their prefix", names[0], names[1])
	}
}

func TestBodiesAreDumpedAsTheyWere(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	wide := strings.Repeat("[", 100) + "0" + strings.Repeat(",0", 1<<20) + strings.Repeat("]", 100)
	for _, test := range []struct{ name, body, want string }{
		{"numbers keep all their digits", `{"n":[1.0,12345678901234567890,1e400]}`, `{"n":[1.0,12345678901234567890,1e400]}`},
		{"a repeated key stays repeated", `{"a":1,"a":2}`, `{"a":1,"a":2}`},
		{"angle brackets are not escaped", `{"a":"<b>&\u00e9"}`, `{"a":"<b>&\u00e9"}`},
		{"an empty body is an empty string", ``, `""`},
		{"spaces alone are text", `  `, `"  "`},
		{"what is not JSON is text", `{"a":`, `"{\"a\":"`},
		{"bytes that are not UTF-8 are replaced", "a\xffb", `"a\ufffdb"`},
		{"JSON that is not UTF-8 is text", "\"a\xffb\"", `"\"a\ufffdb\""`},
		{"JSON that is nested too deeply is text, as for the original", deep, strconv.Quote(deep)},
		{"JSON that indenting would blow up is not indented", wide, wide},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			dumpExchange(d, newRequest(test.body), echoBody)
			d.Close()
			for _, dump := range bothDumps(onlyDump(t, dir)) {
				if got := compactBody(t, dump); got != test.want {
					t.Errorf("body: %.200s, want %.200s", got, test.want)
				}
			}
		})
	}
}

func TestDumpingDoesNotDelayTheStream(t *testing.T) {
	d, logs := blockedDumper(t, 1)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := d.Begin(r, false)
		defer e.Finish()
		w = e.Record(w)
		for _, event := range []string{"data: 1\n\n", "data: 2\n\n"} {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
			<-release
		}
	}))
	defer server.Close()
	for range 3 { // the queue has room for one
		response, err := http.Post(server.URL, "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		if line, err := lines.ReadString('\n'); line != "data: 1\n" { // while the handler still waits
			t.Fatalf("first event: %q, %v", line, err)
		}
		release <- struct{}{}
		release <- struct{}{}
		if rest, err := io.ReadAll(lines); err != nil || string(rest) != "\ndata: 2\n\n" {
			t.Fatalf("the rest: %q, %v", rest, err)
		}
		_ = response.Body.Close()
	}
	server.Close()
	go d.dir.writeQueued()
	must(t, d.dir.Destruct())
	if names := dumpNames(t, d.dir.path); len(names) != 2 {
		t.Errorf("files: %q; want those of the first exchange", names)
	}
	assertLossLogged(t, logs, 2, errQueueFull.Error())
}

func TestDumpingDoesNotReadTheBodyByItself(t *testing.T) {
	dir, d, _ := newDumper(t)
	r := newRequest(`{"a":1}`)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"a`), failingReader{t}))
	dumpExchange(d, r, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 3))
		w.WriteHeader(http.StatusBadRequest)
	})
	d.Close()
	request, _ := onlyDump(t, dir)
	if got := textBody(t, request); got != `{"a` {
		t.Errorf("body: %q, want what was read", got)
	}
}

func TestABodyThatIsReadAfterTheHandlerIsLeftAlone(t *testing.T) {
	dir, d, _ := newDumper(t)
	var body io.Reader
	dumpExchange(d, newRequest(strings.Repeat("a", 1<<20)), func(w http.ResponseWriter, r *http.Request) {
		body = r.Body // as http.Transport does, when the answer comes before the request is sent
		answerDumped(w, r)
	})
	if n, err := io.Copy(io.Discard, body); n != 1<<20 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	d.Close()
	if request, _ := onlyDump(t, dir); textBody(t, request) != "" {
		t.Error("it was dumped")
	}
}

func TestAnAbandonedExchangeIsStillDumped(t *testing.T) {
	for _, test := range []struct {
		name         string
		next         http.HandlerFunc
		wantResponse string
	}{
		{"before it was answered", func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}, ""},
		{"in the middle of its answer", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "data: 1\n\n")
			panic(http.ErrAbortHandler)
		}, "data: 1\n\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			func() {
				defer func() {
					if recover() != http.ErrAbortHandler {
						t.Error("the panic was swallowed")
					}
				}()
				dumpExchange(d, newRequest(`{}`), test.next)
			}()
			d.Close()
			dumps := readDumps(t, dir)
			if test.wantResponse == "" {
				if len(dumps) != 1 {
					t.Errorf("%d files, want the request alone", len(dumps))
				}
				return
			}
			if _, response := onlyDump(t, dir); textBody(t, response) != test.wantResponse {
				t.Errorf("response:\n%s", response)
			}
		})
	}
}

func TestWebSocketsAreDumpedWithoutWhatGoesThrough(t *testing.T) {
	dir, d, _ := newDumper(t)
	finished := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(finished)
		e := d.Begin(r, true)
		defer e.Finish()
		w = e.Record(w)
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		_, _ = io.WriteString(conn, "frames")
		_ = conn.Close()
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	if all, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(all), "frames") {
		t.Errorf("answer: %q, %v", all, err)
	}
	<-finished
	d.Close()
	request, response := onlyDump(t, dir)
	if !strings.Contains(request, `"GET"`) || textBody(t, request) != "" {
		t.Errorf("request:\n%s", request)
	}
	if !strings.Contains(response, `"status": 101`) || textBody(t, response) != "" {
		t.Errorf("response:\n%s", response)
	}
}

func TestAWebSocketOverHTTP2IsDumpedWithoutWhatGoesThrough(t *testing.T) {
	dir, d, _ := newDumper(t)
	r := newRequest("frames of the caller")
	r.Method, r.ProtoMajor = http.MethodConnect, 2
	r.Header[":protocol"] = []string{"websocket"}
	dumpExchange(d, r, echoBody)
	d.Close()
	for _, dump := range bothDumps(onlyDump(t, dir)) {
		if textBody(t, dump) != "" {
			t.Errorf("dump:\n%s", dump)
		}
	}
}

func TestInformationalAnswersAreNotTheAnswer(t *testing.T) {
	dir, d, _ := newDumper(t)
	dumpExchange(d, newRequest(`{}`), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK) // too late
	})
	d.Close()
	if _, response := onlyDump(t, dir); !strings.Contains(response, `"status": 418,`) {
		t.Errorf("response:\n%s", response)
	}
}

func TestNoDumperChangesNothing(t *testing.T) {
	var d *Dumper
	must(t, d.Prepare())
	r := newRequest(`{}`)
	body, w := r.Body, httptest.NewRecorder()
	e := d.Begin(r, false, testKey)
	if e != nil || r.Body != body || e.Record(w) != http.ResponseWriter(w) {
		t.Error("something was wrapped")
	}
	e.Finish()
	d.Close()
}

func TestARequestWithoutBodyStaysOne(t *testing.T) {
	_, d, _ := newDumper(t)
	r := newRequest("")
	r.Body = http.NoBody
	d.Begin(r, false).Finish()
	if r.Body != http.NoBody {
		t.Error("http.NoBody was wrapped, and would be sent as a body of unknown length")
	}
}
