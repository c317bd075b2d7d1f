//go:build unix

package gatetest

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Issuer stands in for OpenAI's token endpoint, at /oauth/token, and for
// GitHub's issuer of identity tokens, at /github. It has no network but loopback.
type Issuer struct {
	*httptest.Server

	mu        sync.Mutex
	life      time.Duration
	leeway    time.Duration
	answer    http.HandlerFunc
	ends      map[string]time.Time
	exchanges []Exchange
	audiences []string
}

// Exchange is a request for a token.
type Exchange struct {
	GrantType        string `json:"grant_type"`
	SubjectToken     string `json:"subject_token"`
	SubjectTokenType string `json:"subject_token_type"`
	Provider         string `json:"identity_provider_id"`
	ServiceAccount   string `json:"service_account_id"`
}

const (
	// RequestToken is what GitHub's runner gives to a job.
	RequestToken = "gh-request-token-8b1f0c2d9e7a4f36"

	// SubjectToken is a workload's own token.
	SubjectToken = "eyJhbGciOiJSUzI1NiJ9.d29ya2xvYWQtdG9rZW4.c2lnbmF0dXJlLW9mLXRoZS10ZXN0"

	issuedPrefix = "oai-short-lived-"
)

// NewIssuer starts an issuer whose tokens say that they live for life. They are
// taken for leeway more, as real ones are.
func NewIssuer(t testing.TB, life, leeway time.Duration) *Issuer {
	t.Helper()
	i := &Issuer{life: life, leeway: leeway, ends: make(map[string]time.Time)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", i.serveToken)
	mux.HandleFunc("GET /github", i.serveGitHub)
	i.Server = httptest.NewUnstartedServer(mux)
	i.Config.ErrorLog = log.New(io.Discard, "", 0)
	i.Start()
	t.Cleanup(func() {
		i.CloseClientConnections()
		i.Close()
	})
	return i
}

// Endpoint is the URL of the token endpoint.
func (i *Issuer) Endpoint() string { return i.URL + "/oauth/token" }

// RequestURL is what GitHub's runner says.
func (i *Issuer) RequestURL() string { return i.URL + "/github?api-version=2.0" }

func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	var exchange Exchange
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&exchange); err != nil || exchange.GrantType != "urn:ietf:params:oauth:grant-type:token-exchange" {
		http.Error(w, `{"error":"invalid_request"}`, http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	i.exchanges = append(i.exchanges, exchange)
	answer := i.answer
	token := fmt.Sprintf("%s%d-%s", issuedPrefix, len(i.ends), exchange.ServiceAccount)
	if answer == nil {
		i.ends[token] = time.Now().Add(i.life + i.leeway)
	}
	life := int(i.life / time.Second)
	i.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer", "expires_in": life,
		"expires_at": time.Now().Unix() + int64(life),
	})
}

func (i *Issuer) serveGitHub(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.audiences = append(i.audiences, r.URL.Query().Get("audience"))
	i.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+RequestToken || r.URL.Query().Get("api-version") != "2.0" {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": SubjectToken})
}

// Fail has exchanges answered by answer; nil: with tokens again.
func (i *Issuer) Fail(answer http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = answer
}

// Exchanges are the requests for tokens so far.
func (i *Issuer) Exchanges() []Exchange {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]Exchange(nil), i.exchanges...)
}

// Audiences are those that GitHub was asked for.
func (i *Issuer) Audiences() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string(nil), i.audiences...)
}

// Revoke has the tokens of now taken no more.
func (i *Issuer) Revoke() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for token := range i.ends {
		i.ends[token] = time.Time{}
	}
}

// Checked is answer for an upstream that takes the issuer's tokens only.
func (i *Issuer) Checked(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		valid := false
		if token := r.Header.Get("Authorization"); len(token) > len("Bearer ") {
			valid = time.Now().Before(i.ends[token[len("Bearer "):]])
		}
		i.mu.Unlock()
		if !valid {
			http.Error(w, `{"error":{"message":"Incorrect API key provided","code":"invalid_api_key"}}`, http.StatusUnauthorized)
			return
		}
		answer(w, r)
	}
}
