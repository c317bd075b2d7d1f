package responsesproxygate

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Where a caller says which host the key goes to, it is sent to the caller: no
// insecure_allow makes sense of that.
func TestACallerCannotHaveTheKeySentToItself(t *testing.T) {
	for name, proxy := range map[string]string{
		"by a header":             "reverse_proxy {header.X-Up}",
		"by its host":             "reverse_proxy {host}:443 {\ntransport http {\ntls\n}\n}",
		"by a query":              "reverse_proxy {http.request.uri.query.up}:80",
		"by the port":             "reverse_proxy 127.0.0.1:{header.X-Port}",
		"as the second":           "reverse_proxy 127.0.0.1:1 {header.X-Up}",
		"by a socket":             "reverse_proxy unix/{header.X-Up}",
		"by a default":            "reverse_proxy {http.request.header.X-Up:127.0.0.1:1}",
		"by a dynamic upstream":   "reverse_proxy {\ndynamic a {header.X-Up} 443\ntransport http {\ntls\n}\n}",
		"by a dynamic port":       "reverse_proxy {\ndynamic a localhost {header.X-Port}\n}",
		"by a service":            "reverse_proxy {\ndynamic srv {header.X-Up}\n}",
		"by one of many":          "reverse_proxy {\ndynamic multi {\na localhost 1\na {header.X-Up} 1\n}\n}",
		"by a proxy on the way":   "reverse_proxy 127.0.0.1:1 {\ntransport http {\nnetwork_proxy url http://{header.X-Proxy}\n}\n}",
		"by who has to answer":    "reverse_proxy https://api.openai.com {\ntransport http {\ntls_server_name {header.X-Up}\n}\n}",
		"by the named transport":  "reverse_proxy {header.X-Up} {\ntransport responses_proxy_gate\n}",
		"in a handle of its kind": "handle {\nreverse_proxy {header.X-Up}\n}",
	} {
		for _, gate := range []string{"GATE", "KNOWINGLY"} {
			t.Run(name+", "+gate, func(t *testing.T) {
				_, err := tryLoad(t, "", gate+"\n"+proxy)
				refusedWith(t, err, "a caller would say where the operator's key goes")
				refusedWith(t, err, "map")
			})
		}
	}
	t.Run("nor by the Host, which leads nowhere", func(t *testing.T) {
		if _, err := tryLoad(t, "", "GATE\nreverse_proxy 127.0.0.1:1 {\nheader_up Host {host}\n}"); err != nil {
			t.Error(err)
		}
	})
}

func TestAnotherUserCannotTakeTheUpstreamsSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows, the directory's access control list decides")
	}
	for name, mode := range map[string]os.FileMode{"0777": 0o777, "1777": 0o777 | os.ModeSticky} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Chmod(dir, mode); err != nil {
				t.Fatal(err)
			}
			t.Setenv("UP_SOCKET", filepath.Join(dir, "up.sock"))
			for _, proxy := range []string{
				"reverse_proxy unix/" + dir + "/up.sock", "reverse_proxy unix+h2c/" + dir + "/up.sock", "reverse_proxy unix/{env.UP_SOCKET}",
			} {
				_, err := tryLoad(t, "", "GATE\n"+proxy)
				refusedWith(t, err, "run chmod go-w "+dir)
				refusedWith(t, err, "insecure_allow plaintext_upstream")
				for what, site := range map[string]string{
					"knowingly": "KNOWINGLY\n" + proxy,
					"over TLS":  "GATE\n" + strings.Replace(proxy, "+h2c", "", 1) + " {\ntransport http {\ntls\ntls_server_name up.test\n}\n}",
				} {
					if _, err := tryLoad(t, "", site); err != nil {
						t.Errorf("%s: %v", what, err)
					}
				}
			}
			listener, err := net.Listen("unix", filepath.Join(dir, "up.sock")) // another user's, for all that anybody can tell
			if err != nil {
				t.Fatal(err)
			}
			u := newRecorder(t, func(server *httptest.Server) {
				_ = server.Listener.Close()
				server.Listener = listener
				server.Start()
			})
			attempt := loaded(t, "", "GATE\nvars up "+dir+"/up.sock\nreverse_proxy unix/{vars.up}")
			if status, code, body := attempt(); status != http.StatusBadGateway {
				t.Errorf("what is not known at start: %d %s %s", status, code, body)
			}
			u.got(t)
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if status, code, body := attempt(); status != http.StatusOK {
				t.Errorf("when nobody else can: %d %s %s", status, code, body)
			}
			u.got(t, "Bearer "+testKey)
			if _, err := tryLoad(t, "", "GATE\nreverse_proxy unix/"+dir+"/up.sock"); err != nil {
				t.Error(err)
			}
		})
	}
}
