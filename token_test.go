package responsesproxygate

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

func TestAGuessedTokenIsRefused(t *testing.T) {
	const missing, invalid, yes = "missing_token", "invalid_token", "passes"
	long := strings.Repeat("a", 16<<10)
	for name, c := range map[string]struct {
		proxyToken, authorization []string // nil: the header is absent
		want                      string
	}{
		"the token in Authorization":                  {nil, []string{"Bearer " + testToken}, yes},
		"the token in X-Proxy-Token":                  {[]string{testToken}, nil, yes},
		"the token in both":                           {[]string{testToken}, []string{"Bearer " + testToken}, yes},
		"no token":                                    {nil, nil, missing},
		"X-Proxy-Token decides for the caller":        {[]string{testToken}, []string{"Bearer sk-own-key"}, yes},
		"X-Proxy-Token decides against the caller":    {[]string{"guess"}, []string{"Bearer " + testToken}, invalid},
		"an empty X-Proxy-Token decides too":          {[]string{""}, []string{"Bearer " + testToken}, missing},
		"X-Proxy-Token beside a Basic Authorization":  {[]string{testToken}, []string{"Basic dXNlcjpwYXNz"}, yes},
		"X-Proxy-Token beside several Authorization":  {[]string{testToken}, []string{"Bearer a", "Bearer b"}, yes},
		"an X-Proxy-Token header without a value":     {[]string{}, []string{"Bearer " + testToken}, invalid},
		"X-Proxy-Token twice":                         {[]string{testToken, testToken}, nil, invalid},
		"X-Proxy-Token before a guess":                {[]string{testToken, "guess"}, nil, invalid},
		"X-Proxy-Token after a guess":                 {[]string{"guess", testToken}, nil, invalid},
		"X-Proxy-Token in a list":                     {[]string{testToken + ", guess"}, nil, invalid},
		"X-Proxy-Token twice in a list":               {[]string{testToken + "," + testToken}, nil, invalid},
		"X-Proxy-Token with a scheme":                 {[]string{"Bearer " + testToken}, nil, invalid},
		"X-Proxy-Token in quotes":                     {[]string{`"` + testToken + `"`}, nil, invalid},
		"X-Proxy-Token with a space before it":        {[]string{" " + testToken}, nil, invalid},
		"X-Proxy-Token with a space after it":         {[]string{testToken + " "}, nil, invalid},
		"Authorization twice":                         {nil, []string{"Bearer " + testToken, "Bearer " + testToken}, invalid},
		"Authorization before a guess":                {nil, []string{"Bearer " + testToken, "Bearer guess"}, invalid},
		"Authorization after Basic":                   {nil, []string{"Basic dXNlcjpwYXNz", "Bearer " + testToken}, invalid},
		"Authorization in a list":                     {nil, []string{"Bearer " + testToken + ", Bearer guess"}, invalid},
		"an empty Authorization":                      {nil, []string{""}, missing},
		"an Authorization header without a value":     {nil, []string{}, missing},
		"only the scheme":                             {nil, []string{"Bearer"}, missing},
		"only the scheme and a space":                 {nil, []string{"Bearer "}, missing},
		"only the scheme and spaces":                  {nil, []string{"Bearer     "}, missing},
		"only the token":                              {nil, []string{testToken}, missing},
		"the scheme in lower case":                    {nil, []string{"bearer " + testToken}, yes},
		"the scheme in capitals":                      {nil, []string{"BEARER " + testToken}, yes},
		"the scheme Basic":                            {nil, []string{"Basic " + testToken}, missing},
		"the scheme Token":                            {nil, []string{"Token " + testToken}, missing},
		"a scheme that begins with Bearer":            {nil, []string{"Bearers " + testToken}, missing},
		"several spaces":                              {nil, []string{"Bearer    " + testToken}, yes},
		"a tab in place of the space":                 {nil, []string{"Bearer\t" + testToken}, missing},
		"a tab after the space":                       {nil, []string{"Bearer \t" + testToken}, invalid},
		"a colon after the scheme":                    {nil, []string{"Bearer: " + testToken}, missing},
		"a space before the scheme":                   {nil, []string{" Bearer " + testToken}, missing},
		"a space after the token":                     {nil, []string{"Bearer " + testToken + " "}, invalid},
		"a parameter after the token":                 {nil, []string{"Bearer " + testToken + " realm=x"}, invalid},
		"a comma after the token":                     {nil, []string{"Bearer " + testToken + ","}, invalid},
		"a NUL after the token":                       {nil, []string{"Bearer " + testToken + "\x00"}, invalid},
		"a line break after the token":                {nil, []string{"Bearer " + testToken + "\n"}, invalid},
		"the token in another case":                   {nil, []string{"Bearer " + strings.ToUpper(testToken)}, invalid},
		"the token with its last character wrong":     {nil, []string{"Bearer " + testToken[:42] + "H"}, invalid},
		"the token with its first character wrong":    {nil, []string{"Bearer 1" + testToken[1:]}, invalid},
		"the token without its last character":        {nil, []string{"Bearer " + testToken[:42]}, invalid},
		"the token without its first character":       {nil, []string{"Bearer " + testToken[1:]}, invalid},
		"the token and one character":                 {nil, []string{"Bearer " + testToken + "a"}, invalid},
		"the token and base64 padding":                {nil, []string{"Bearer " + testToken + "="}, invalid},
		"the token twice in a row":                    {nil, []string{"Bearer " + testToken + testToken}, invalid},
		"the token with a non-ASCII character behind": {nil, []string{"Bearer " + testToken + "\u00e9"}, invalid},
		"a token of non-ASCII characters":             {nil, []string{"Bearer \u00fc\u00fc\u00fc"}, invalid},
		"a token of 16 KiB":                           {nil, []string{"Bearer " + long}, invalid},
		"a token of 16 KiB that begins with it":       {[]string{testToken + long}, nil, invalid},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			delete(r.Header, "Authorization")
			if c.proxyToken != nil {
				r.Header["X-Proxy-Token"] = c.proxyToken
			}
			if c.authorization != nil {
				r.Header["Authorization"] = c.authorization
			}
			if got := codeOf(check(testPolicy(), r)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestAnotherHeaderIsNoToken(t *testing.T) {
	for _, name := range []string{"Proxy-Authorization", "Api-Key", "X-Api-Key", "Cookie", "Sec-Websocket-Protocol", "X-Proxy-Tokens"} {
		r := goodRequest()
		delete(r.Header, "Authorization")
		r.Header[name] = []string{"Bearer " + testToken}
		if got := codeOf(check(testPolicy(), r)); got != "missing_token" {
			t.Errorf("%s: got %s", name, got)
		}
	}
	r := goodRequest()
	delete(r.Header, "Authorization")
	r.URL.RawQuery = "token=" + testToken
	r.RequestURI += "?token=" + testToken
	if got := codeOf(check(testPolicy(), r)); got != "missing_token" {
		t.Errorf("in the query: got %s", got)
	}
}

// tokensOf is a set with one caller, whose token was generated.
func tokensOf(name, token string) *tokenSet {
	id := callerID{gate: name}
	state := &caller{id: id, metrics: newCallerMetrics(id)}
	state.token.Become(secret.New(token))
	c := &configuredCaller{caller: state, name: name, userID: name}
	c.ring.add(c.token.Now())
	return newTokenSet([]*configuredCaller{c}, nil)
}

func TestATokenBelongsToOneCaller(t *testing.T) {
	names := []string{"default", "codex", "ci"}
	var callers []*configuredCaller
	for _, name := range names {
		callers = append(callers, tokensOf(name, "token-of-"+name).callers...)
	}
	set := newTokenSet(callers, nil)
	for _, want := range names {
		if c, ok := set.match(markOf("token-of-" + want)); !ok || c.name != want {
			t.Errorf("the token of %s is matched as %v, %t", want, c, ok)
		}
	}
	for _, wrong := range []string{"", "token-of-", "token-of-nobody", "token-of-ci ", "ci"} {
		if c, ok := set.match(markOf(wrong)); c != nil || ok {
			t.Errorf("%q is matched as %v, %t", wrong, c, ok)
		}
	}
	if c, ok := newTokenSet(nil, nil).match(markOf("")); c != nil || ok {
		t.Errorf("a gate without tokens accepts %v, %t", c, ok)
	}
}

// closeCaller gives back one caller, as a gate does with all that it has.
func closeCaller(config configID, c *caller) error {
	return closeCallers(config, c.id.gate, []*configuredCaller{{caller: c}})
}

// The comparison's cost must not tell how much of a token was right. What a
// test can hold on to: what is compared is one digest per token, never the text.
func TestTheTokenItselfIsNotKeptForComparison(t *testing.T) {
	for _, token := range tokensOf("default", testToken).callers[0].accepted() {
		if bytes.Contains(token.digest[:], []byte(testToken[:8])) {
			t.Errorf("the set keeps %+v", token)
		}
	}
}

func TestLaunchTokensCannotBeGuessed(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		token := secret.NewToken().Reveal()
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(raw) != 32 || len(token) != 43 {
			t.Fatalf("%q is not 32 bytes in base64url without padding: %v", token, err)
		}
		if seen[token] {
			t.Fatal("a token came twice")
		}
		seen[token] = true
	}
}

func TestALaunchIsAnnouncedOnce(t *testing.T) {
	c := tokensOf("default", testToken).callers[0]
	c.configs = map[configID]*publication{1: new(publication)}
	var out bytes.Buffer
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if err := c.publish(1, publication{stderr: &out}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if want := "responses_proxy_gate default: the token of this launch is " + testToken + "\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestALaunchOutlivesAReload(t *testing.T) {
	const name = "outlives"
	refs := func() int { n, _ := callers.References(callerID{gate: name}); return n }
	open := func(config configID) *caller {
		l, err := openCaller(callerID{gate: name}, config)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := open(1)
	token := first.token.Now().Reveal()
	second := open(2) // a reload: the new config is provisioned first
	if second.token.Now().Reveal() != token || refs() != 2 {
		t.Errorf("during a reload the token changes, or %d configs use it", refs())
	}
	if l, err := openCaller(callerID{gate: name}, 2); err == nil {
		t.Errorf("a second gate of the same name got %p", l)
	}
	if refs() != 2 {
		t.Errorf("a refused gate leaves %d references", refs())
	}
	shut := func(config configID, l *caller) {
		if err := closeCaller(config, l); err != nil {
			t.Fatal(err)
		}
	}
	shut(1, first)
	first = open(1) // a config may come to lie where a former one was
	shut(1, first)
	shut(2, second)
	if refs() != 0 {
		t.Errorf("%d references are left", refs())
	}
	third := open(2)
	if third.token.Now().Reveal() == token {
		t.Error("a new launch has the former token")
	}
	shut(2, third)
}

func TestAuthorizationOfAnyHeaderNameCaseIsFound(t *testing.T) {
	r := goodRequest()
	r.Header = http.Header{"Content-Type": {"application/json"}}
	r.Header.Set("x-proxy-TOKEN", testToken) // net/http canonicalizes what it reads
	if got := codeOf(check(testPolicy(), r)); got != "passes" {
		t.Errorf("got %s", got)
	}
}

// A config can fail after it was started, when its remote admin endpoint or its
// config loader does.
func TestAReloadThatFailsLateGivesTheFileBack(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) *infofile.File {
		f, err := infofile.New(filepath.Join(dir, name), "")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	old, next := file("old.json"), file("next.json")
	info := func(port int) infofile.Info {
		return infofile.Info{Port: port, PID: 1, BaseURL: "http://127.0.0.1/v1"}
	}
	l, err := openCaller(callerID{gate: "late"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.claimFile(1, old); err != nil {
		t.Fatal(err)
	}
	publish := func(config configID, f *infofile.File, i infofile.Info) {
		if err := l.publish(config, publication{file: f, info: i}); err != nil {
			t.Fatal(err)
		}
	}
	publish(1, old, info(1))
	if _, err := openCaller(callerID{gate: "late"}, 2); err != nil {
		t.Fatal(err)
	}
	if err := l.claimFile(2, next); err != nil {
		t.Fatal(err)
	}
	publish(2, next, info(2))
	if err := closeCaller(2, l); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(next.Path()); err == nil {
		t.Error("the failed config's file is still there")
	}
	if told, err := publishedInfo("late"); err != nil || told != info(1) {
		t.Errorf("callers are told %v, %v", told, err)
	}
	if _, err := os.Stat(old.Path()); err != nil {
		t.Error(err)
	}
	if err := closeCaller(1, l); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old.Path()); err == nil {
		t.Error("the file outlives its gate")
	}
}

// With a fixed token, two gates' files can be the same to the letter.
func TestARenamedGateKeepsItsFile(t *testing.T) {
	f, err := infofile.New(filepath.Join(t.TempDir(), "info.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	begin := func(name string, config configID) *caller {
		l, err := openCaller(callerID{gate: name}, config)
		if err == nil {
			err = l.claimFile(config, f)
		}
		if err == nil {
			err = l.publish(config, publication{file: f, info: infofile.Info{Port: 1, PID: 1, BaseURL: "http://127.0.0.1/v1"}, fixed: secret.New("t")})
		}
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	former := begin("former-name", 1)
	later := begin("later-name", 2)
	if err := closeCaller(1, former); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.Path()); err != nil {
		t.Error(err)
	}
	if err := closeCaller(2, later); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.Path()); err == nil {
		t.Error("the file outlives its gate")
	}
}

// A config that does not come to run must not lift what the running one forbids.
func TestAFailedReloadDoesNotLiftTheGuardOfTheAdminEndpoint(t *testing.T) {
	l, err := openCaller(callerID{gate: "guarding"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	l.guardAdmin(1, true)
	if anyGuardsAdmin() {
		t.Error("a gate that does not run yet guards the endpoint of another config")
	}
	l.start(1)
	if _, err := openCaller(callerID{gate: "guarding"}, 2); err != nil {
		t.Fatal(err)
	}
	l.guardAdmin(2, false)
	if !anyGuardsAdmin() {
		t.Error("a config that was only provisioned lifts the guard")
	}
	for config := configID(2); config > 0; config-- {
		if err := closeCaller(config, l); err != nil {
			t.Fatal(err)
		}
	}
	if anyGuardsAdmin() {
		t.Error("a gate that is gone guards the endpoint")
	}
}

// A disk that is full when a reload moves the gate to another port must not
// leave callers with the old port, which anybody can take, and a valid token.
func TestAFileThatCannotBeRenewedDoesNotNameAFormerPort(t *testing.T) {
	dir := t.TempDir()
	file, err := infofile.New(filepath.Join(dir, "info.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	info := infofile.Info{Port: 1, PID: 1, BaseURL: "http://127.0.0.1/v1"}
	l, err := openCaller(callerID{gate: "stale-file"}, 1)
	if err == nil {
		err = l.publish(1, publication{file: file, info: info})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openCaller(callerID{gate: "stale-file"}, 2); err != nil {
		t.Fatal(err)
	}
	l.start(2)
	unwritable, err := infofile.New(filepath.Join(dir, "info.json", "below-a-file.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	info.Port = 2
	if l.publish(2, publication{file: unwritable, info: info}) == nil {
		t.Fatal("published where nothing can be written")
	}
	if err := closeCaller(1, l); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file.Path()); err == nil {
		t.Error("the file still names the former port")
	}
	if err := closeCaller(2, l); err != nil {
		t.Fatal(err)
	}
}
