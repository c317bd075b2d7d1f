//go:build unix

package codex

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// signedIn has Codex believe that somebody has signed in with ChatGPT, which it
// asks for before it draws. It does not check who signed.
func signedIn(t *testing.T, home string) {
	t.Helper()
	part := func(v any) string {
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(encoded)
	}
	token := part(map[string]string{"alg": "none", "typ": "JWT"}) + "." + part(map[string]any{
		"email": "somebody@example.com", "iat": time.Now().Unix(), "exp": time.Now().Add(24 * time.Hour).Unix(),
		"https://api.openai.com/auth": map[string]string{"chatgpt_plan_type": "plus", "chatgpt_account_id": "acc", "chatgpt_user_id": "user"},
	}) + "." + part("unsigned")
	auth, err := json.Marshal(map[string]any{
		"auth_mode": "chatgpt", "last_refresh": time.Now().UTC(),
		"tokens": map[string]string{"id_token": token, "access_token": token, "refresh_token": "none", "account_id": "acc"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "auth.json"), auth, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The image's tool is there only for who has signed in with ChatGPT. Their own
// token is then in Authorization, and the gate's in X-Proxy-Token.
func TestACodexThatIsSignedInDrawsAndChangesImagesByThePresetsRoutes(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		t.Run(version, func(t *testing.T) {
			const image = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
			upstream := newUpstream(t)
			answers := 0
			upstream.forget(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/responses" {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, map[bool]string{true: `{"created":1,"data":[{"b64_json":"` + image + `"}]}`, false: `{"models":[]}`}[strings.HasPrefix(r.URL.Path, "/v1/images/")])
					return
				}
				answers++
				switch answers {
				case 1:
					toolCall(w, `"namespace":"image_gen","name":"imagegen"`, `{"prompt":"a gate"}`, 1)
				case 2:
					toolCall(w, `"namespace":"image_gen","name":"imagegen"`, `{"prompt":"a wider gate","num_last_images_to_include":1}`, 1)
				default:
					upstream.writeTurn(w)
				}
			})
			gate := startOurs(t, upstream.responsesURL(), "--allow-route", "codex")
			home := codexHome(t, gate)
			signedIn(t, home)
			args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5.5"}
			for _, setting := range []string{
				`model_provider="gate-header"`, "model_providers.gate-header.requires_openai_auth=true", "features.image_generation=true",
				"features.apps=false", "features.plugins=false", "chatgpt_base_url=" + upstream.URL + "/chatgpt",
			} {
				args = append(args, "-c", setting)
			}
			cmd := command(t, home, binary, append(args, "hi")...)
			cmd.Env = append(cmd.Env, "PROXY_TOKEN="+gate.token)
			wantTurn(t, upstream, run(t, cmd))
			for _, path := range []string{"/v1/images/generations", "/v1/images/edits"} {
				drawn := upstream.matching(http.MethodPost, path)
				wantOperator(t, gate, drawn)
				if len(drawn) != 1 {
					t.Errorf("POST %s: %d requests reached the upstream, want 1", path, len(drawn))
				}
			}
		})
	}
}
