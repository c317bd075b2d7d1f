package callerheader

import (
	"net/textproto"
	"strings"
	"testing"
)

// clients is what Codex, the SDKs and agents send beside their credentials:
// none of it may be lost.
var clients = strings.Fields(`
	Accept Accept-Encoding Accept-Language Connection Content-Length Content-Type Content-Encoding Expect User-Agent
	Cache-Control Pragma Priority Te Referer Sec-Fetch-Mode X-Request-Id X-Client-Request-Id X-Correlation-Id
	Openai-Beta Originator Version Session-Id Session_id Thread-Id Conversation_id Idempotency-Key
	X-Codex-Beta-Features X-Codex-Installation-Id X-Codex-Turn-Metadata X-Codex-Turn-State X-Codex-Window-Id
	X-Codex-Parent-Thread-Id X-Codex-Inference-Call-Id X-Openai-Subagent X-Openai-Memgen-Request X-Oai-Attestation
	X-Openai-Internal-Codex-Residency X-Responsesapi-Include-Timing-Metrics
	X-Stainless-Arch X-Stainless-Lang X-Stainless-Os X-Stainless-Package-Version X-Stainless-Runtime
	X-Stainless-Runtime-Version X-Stainless-Retry-Count X-Stainless-Timeout X-Stainless-Read-Timeout X-Stainless-Async
	X-Stainless-Helper-Method X-Stainless-Poll-Helper X-Stainless-Custom-Poll-Interval X-Stainless-Raw-Response
	Http-Referer X-Title Traceparent Tracestate Baggage Sentry-Trace Langsmith-Trace X-Ms-Client-Request-Id
	X-Session-Affinity X-Session-Id X-Forwarded-For X-Forwarded-Host X-Forwarded-Proto Forwarded Via
	Sec-Websocket-Key Sec-Websocket-Version Sec-Websocket-Extensions Sec-Websocket-Protocol Upgrade
`)

func TestWhatClientsNeedGoesUpstream(t *testing.T) {
	for _, name := range clients {
		if name != canonical(name) {
			t.Errorf("%s: net/http writes it %s", name, canonical(name))
		}
		if judge(name) != Passes {
			t.Errorf("%s is lost", name)
		}
	}
	for name := range usual {
		if judge(name) != Passes || name != canonical(name) {
			t.Errorf("%s is let pass without a look, and the rule says otherwise", name)
		}
	}
}

func TestACallersOtherCredentialsGoNoFurther(t *testing.T) {
	for _, name := range strings.Fields(`
		Authorization Proxy-Authorization X-Proxy-Token Cookie Cookie2 Api-Key Apikey X-Api-Key X-Apikey
		Ocp-Apim-Subscription-Key Subscription-Key X-Goog-Api-Key X-Goog-Iam-Authorization-Token X-Auth-Token X-Auth-Key
		X-Auth-Email X-Access-Token X-Session-Token X-Amz-Security-Token X-Functions-Key Private-Token Job-Token
		X-Vault-Token X-Csrf-Token X-Shared-Secret X-Client-Secret Cf-Access-Client-Secret Cf-Access-Jwt-Assertion
		Cf-Aig-Authorization Helicone-Auth Langsmith-Api-Key X-Litellm-Key X-Portkey-Api-Key X-Openai-Actor-Authorization
		X-Password X-Passwd X-User-Credentials Dpop Client-Cert X-Forwarded-Client-Cert X-Ssl-Client-Cert Signature
		X-Forwarded-Access-Token X-Ms-Token-Aad-Access-Token X-Webauth-User X-Authenticated-User Sec-Token-Binding
	`) {
		for _, spelling := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."), strings.ToUpper(name)} {
			spelling = canonical(spelling)
			if !IsCredential(spelling) || Judge(spelling) != Drops {
				t.Errorf("%s goes upstream", spelling)
			}
		}
	}
}

func TestACallerCannotNameAnotherMethodOrURLInAHeader(t *testing.T) {
	for _, name := range strings.Fields(`
		X-Http-Method-Override X-Method-Override X-Http-Method X-Method X-Original-Url X-Original-Uri X-Original-Host
		X-Original-Method X-Rewrite-Url X-Forwarded-Prefix X-Forwarded-Path X-Forwarded-Uri X-Forwarded-Method
		X-Forwarded-Server X-Forwarded-Scheme X-Forwarded-User X-Host X-Http-Host-Override X-Host-Override X-Custom-Host
		Helicone-Target-Url Request-Uri X-Url X-Envoy-Original-Path Destination Incremental
	`) {
		for _, spelling := range []string{name, strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", ".")} {
			if spelling = canonical(spelling); Judge(spelling) != Drops {
				t.Errorf("%s goes upstream", spelling)
			}
		}
	}
}

func TestACallerChoosesNobodysAccountByItself(t *testing.T) {
	for _, name := range []string{"OpenAI-Organization", "openai-project", "openai_organization", "ChatGPT-Account-ID"} {
		if name = canonical(name); Judge(name) != Chooses {
			t.Errorf("%s needs nobody's leave", name)
		}
	}
}

func TestTheRuleAllocatesNothingForWhatClientsSend(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range clients {
			if strings.IndexByte(name, '_') < 0 {
				_ = Judge(name)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkJudge(b *testing.B) {
	for b.Loop() {
		for _, name := range clients {
			_ = Judge(name)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(clients)), "ns/name")
}

func canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }
