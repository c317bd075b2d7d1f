package budget

// Spent is what one caller has spent in one window. Every number only grows.
type Spent struct {
	Requests  int64 `json:"requests,omitempty"`
	Input     int64 `json:"input_tokens,omitempty"`
	Cached    int64 `json:"cached_input_tokens,omitempty"` // of the input
	Output    int64 `json:"output_tokens,omitempty"`
	Reasoning int64 `json:"reasoning_tokens,omitempty"` // of the output
	Estimated int64 `json:"estimated_tokens,omitempty"` // of input and output: what no answer has told
	Cost      Money `json:"cost,omitempty"`             // in the unit of the operator's prices

	// What the operator has forgiven: it is taken off again.
	ForgivenRequests int64 `json:"forgiven_requests,omitempty"`
	ForgivenTokens   int64 `json:"forgiven_tokens,omitempty"`
	ForgivenCost     Money `json:"forgiven_cost,omitempty"`
}

// Tokens are input and output together, less what is forgiven.
func (s Spent) Tokens() int64 { return max(0, s.Input+s.Output-s.ForgivenTokens) }

// Calls are the requests, less those that are forgiven.
func (s Spent) Calls() int64 { return max(0, s.Requests-s.ForgivenRequests) }

// Costs is the cost, less what is forgiven.
func (s Spent) Costs() Money { return max(0, s.Cost-s.ForgivenCost) }

func (s Spent) amount() amount { return amount{s.Tokens(), s.Costs()} }

// plus is the sum. (Each request makes some ten of them.)
func (s Spent) plus(t Spent) Spent {
	return Spent{
		Requests: s.Requests + t.Requests, Input: s.Input + t.Input, Cached: s.Cached + t.Cached, Output: s.Output + t.Output,
		Reasoning: s.Reasoning + t.Reasoning, Estimated: s.Estimated + t.Estimated, Cost: s.Cost + t.Cost,
		ForgivenRequests: s.ForgivenRequests + t.ForgivenRequests, ForgivenTokens: s.ForgivenTokens + t.ForgivenTokens,
		ForgivenCost: s.ForgivenCost + t.ForgivenCost,
	}
}

func (s Spent) minus(t Spent) Spent { return s.combine(t, func(a, b int64) int64 { return a - b }) }

// most is the larger of each number: of two states of one counter, the later.
func (s Spent) most(t Spent) Spent {
	return s.combine(t, func(a, b int64) int64 { return max(a, b) })
}

func (s Spent) combine(t Spent, f func(a, b int64) int64) Spent {
	return Spent{
		Requests: f(s.Requests, t.Requests), Input: f(s.Input, t.Input), Cached: f(s.Cached, t.Cached),
		Output: f(s.Output, t.Output), Reasoning: f(s.Reasoning, t.Reasoning), Estimated: f(s.Estimated, t.Estimated),
		ForgivenRequests: f(s.ForgivenRequests, t.ForgivenRequests), ForgivenTokens: f(s.ForgivenTokens, t.ForgivenTokens),
		Cost: Money(f(int64(s.Cost), int64(t.Cost))), ForgivenCost: Money(f(int64(s.ForgivenCost), int64(t.ForgivenCost))),
	}
}

// valid reports whether no number is negative, or so large that a sum of some
// could be: else somebody else wrote it.
func (s Spent) valid() bool {
	for _, n := range []int64{s.Requests, s.Input, s.Cached, s.Output, s.Reasoning, s.Estimated, s.ForgivenRequests, s.ForgivenTokens, int64(s.Cost), int64(s.ForgivenCost)} {
		if n < 0 || n > maxCount {
			return false
		}
	}
	return true
}

// maxCount is more than anybody can spend in a window; thousands of it make no
// sum that overflows.
const maxCount = 1 << 50
