// Package callerheader answers one question: which of a caller's header fields
// go no further than the gate?
//
// The rule looks at names, by their words: "X-Goog-Api-Key" has four, and "_"
// and "." divide words as "-" does, because servers behind CGI and its heirs
// (WSGI, Rack, PHP) cannot tell them apart.
//
//  1. Credentials of the caller are dropped: a name with "auth" in it, or
//     with a word that ends in one of key, token, secret, password, passwd,
//     credential(s), cookie, cookie2, jwt, assertion, signature, dpop, cert.
//     Idempotency-Key and Sec-WebSocket-Key are no credentials and pass.
//  2. Headers that some servers take for another method or URL than the
//     request's own are dropped: a name with a word override, original, rewrite,
//     url, uri, host, or that begins with X-Forwarded-, and X-Http-Method,
//     X-Method, Destination. X-Forwarded-For, -Host and -Proto pass:
//     reverse_proxy writes them itself, and keeps only trusted proxies' own.
//  3. Headers that choose whose account pays are dropped unless the operator
//     allows them: Choosers.
//  4. Incremental is dropped: the operator decides how the server buffers.
package callerheader

import (
	"net/textproto"
	"slices"
	"strings"
)

// A Verdict says how far a field goes.
type Verdict uint8

const (
	Passes  Verdict = iota // upstream
	Chooses                // upstream, if the operator allows it
	Drops                  // no further than the gate
)

// Choosers are the fields, in canonical form, that choose what an operator's
// key is used for: which of its organizations or projects pays.
var Choosers = []string{"Openai-Organization", "Openai-Project", "Chatgpt-Account-Id"}

// usual are what Codex, the SDKs and browsers send with most requests. The rule
// lets them pass, too (a test says so); to look a name up is several times as fast.
var usual = func() map[string]bool {
	names := make(map[string]bool)
	for name := range strings.FieldsSeq(`
		Accept Accept-Encoding Accept-Language Connection Content-Length Content-Type Content-Encoding User-Agent
		Cache-Control Priority Sec-Fetch-Mode Openai-Beta Originator Version Session-Id Thread-Id Idempotency-Key
		X-Client-Request-Id X-Codex-Beta-Features X-Codex-Installation-Id X-Codex-Turn-Metadata X-Codex-Turn-State
		X-Codex-Window-Id X-Stainless-Arch X-Stainless-Lang X-Stainless-Os X-Stainless-Package-Version
		X-Stainless-Runtime X-Stainless-Runtime-Version X-Stainless-Retry-Count X-Stainless-Timeout Traceparent
	`) {
		names[name] = true
	}
	return names
}()

// Judge says how far a caller's field of this canonical name goes.
func Judge(name string) Verdict {
	if usual[name] {
		return Passes
	}
	return judge(name)
}

func judge(name string) Verdict {
	plain := Plain(name)
	switch {
	case slices.Contains(Choosers, plain):
		return Chooses
	case IsCredential(name), redirects(name, plain), plain == "Incremental":
		return Drops
	}
	return Passes
}

// IsCredential reports whether a field of this canonical name authenticates
// whoever sends it.
func IsCredential(name string) bool {
	if strings.Contains(name, "Auth") || strings.Contains(name, "auth") {
		return true
	}
	for rest := name; rest != ""; {
		var word string
		if word, rest = cutWord(rest); isSecretWord(word) {
			plain := Plain(name)
			return plain != "Idempotency-Key" && plain != "Sec-Websocket-Key"
		}
	}
	return false
}

// isSecretWord reports whether a word ends in one that names a credential. It
// looks at the last letter first: most words are done with then.
func isSecretWord(word string) bool {
	if len(word) < len("key") {
		return false
	}
	switch word[len(word)-1] | 0x20 {
	case 'y':
		return endsIn(word, "key")
	case 'n':
		return endsIn(word, "token") || endsIn(word, "assertion")
	case 't':
		return endsIn(word, "secret") || endsIn(word, "jwt") || endsIn(word, "cert")
	case 'd':
		return endsIn(word, "password") || endsIn(word, "passwd")
	case 'l':
		return endsIn(word, "credential")
	case 's':
		return endsIn(word, "credentials")
	case 'e':
		return endsIn(word, "cookie") || endsIn(word, "signature")
	case 'p':
		return endsIn(word, "dpop")
	case '2':
		return endsIn(word, "cookie2")
	}
	return false
}

// redirects reports whether a server may take a field of this canonical name
// (and how CGI writes it) for the request's method, host or URL.
func redirects(name, plain string) bool {
	for rest := name; rest != ""; {
		var word string
		switch word, rest = cutWord(rest); len(word) {
		case len("url"):
			if strings.EqualFold(word, "url") || strings.EqualFold(word, "uri") {
				return true
			}
		case len("host"):
			if strings.EqualFold(word, "host") && plain != "X-Forwarded-Host" {
				return true
			}
		case len("rewrite"):
			if strings.EqualFold(word, "rewrite") {
				return true
			}
		case len("override"):
			if strings.EqualFold(word, "override") || strings.EqualFold(word, "original") {
				return true
			}
		case len("forwarded"):
			if strings.EqualFold(word, "forwarded") && rest != "" {
				return strings.HasPrefix(plain, "X-Forwarded-") &&
					plain != "X-Forwarded-For" && plain != "X-Forwarded-Host" && plain != "X-Forwarded-Proto"
			}
		}
	}
	return plain == "X-Http-Method" || plain == "X-Method" || plain == "Destination"
}

// Plain is the canonical name for which CGI takes name.
func Plain(name string) string {
	if strings.IndexByte(name, '_') < 0 && strings.IndexByte(name, '.') < 0 {
		return name
	}
	return textproto.CanonicalMIMEHeaderKey(strings.NewReplacer("_", "-", ".", "-").Replace(name))
}

// cutWord is the first word of a name, and what follows it.
func cutWord(name string) (word, rest string) {
	for i := range len(name) {
		if c := name[i]; c == '-' || c == '_' || c == '.' {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}

func endsIn(word, ending string) bool {
	return len(word) >= len(ending) && strings.EqualFold(word[len(word)-len(ending):], ending)
}
