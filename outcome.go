package responsesproxygate

// outcome is what became of a request: the place of its code in outcomeCodes.
// Each of the gate's refusals is one, too.
type outcome int

const (
	outcomeForwarded  outcome = iota // what is behind the gate answered, to the end
	outcomeCutOff                    // what is behind the gate began to answer, and broke off
	outcomeClientGone                // the caller left, or Caddy stopped, before the end
	outcomeShutdown                  // the shutdown endpoint
	outcomePreflight                 // a CORS preflight of an allowed origin
)

// outcomeCodes are the codes that metrics and the audit trail have: these, and
// those of the refusals, in the order in which a request can meet them.
var outcomeCodes = []string{"forwarded", "cut_off", "client_gone", "shutdown", "preflight"}

// newOutcome is for package variables only.
func newOutcome(code string) outcome {
	outcomeCodes = append(outcomeCodes, code)
	return outcome(len(outcomeCodes) - 1)
}

// beforeToken tells whether this happens to requests before it is known whose
// they are.
func (o outcome) beforeToken() bool {
	return o >= outcomePreflight && o <= errInvalidToken.outcome
}
