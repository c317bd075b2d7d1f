package responsesproxygate

// outcome is what became of a request. Each of the gate's refusals is one, too.
type outcome struct {
	code   string // in metrics and the audit trail
	stage  stage
	number int // its place among those that are counted of the same
}

// stage is how far a request comes before it has an outcome.
type stage int

const (
	stageUnknown stage = iota // it is not known whose it is: counted of the gate
	stageKnown                // it is: counted of the caller
	stageBehind               // what is behind the gate has it: counted of the caller
)

// outcomesOfGate and outcomesOfCallers are all outcomes, by whom they are
// counted of and by number.
var outcomesOfGate, outcomesOfCallers []*outcome

// newOutcome is for package variables only.
func newOutcome(s stage, code string) *outcome {
	all := &outcomesOfCallers
	if s == stageUnknown {
		all = &outcomesOfGate
	}
	o := &outcome{code: code, stage: s, number: len(*all)}
	*all = append(*all, o)
	return o
}

var (
	outcomePreflight  = newOutcome(stageUnknown, "preflight")  // a CORS preflight of an allowed origin
	outcomeShutdown   = newOutcome(stageKnown, "shutdown")     // the shutdown endpoint
	outcomeOverBudget = newOutcome(stageKnown, "over_budget")  // a budget behind the gate refused it: spent, or not to be counted
	outcomeForwarded  = newOutcome(stageBehind, "forwarded")   // what is behind the gate answered, to the end
	outcomeCutOff     = newOutcome(stageBehind, "cut_off")     // what is behind the gate began to answer, and broke off
	outcomeClientGone = newOutcome(stageBehind, "client_gone") // the caller left, or Caddy stopped, before the end
)
