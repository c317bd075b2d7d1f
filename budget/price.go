package budget

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// Money is an amount in the unit of the operator's prices, in millionths. In
// JSON it is a number, such as 20 or 0.05, with 6 decimals at most.
type Money int64

const unit Money = 1e6

const (
	maxDecimal = 6

	// maxMoney is more than anybody spends; sums of it do not overflow.
	maxMoney = 100_000_000 * unit

	// maxPrice is what a million tokens may cost at most.
	maxPrice = 1_000_000 * unit

	// maxFee is what a call of a tool may cost at most.
	maxFee = 1000 * unit

	million = 1_000_000
)

// parseMoney reads a decimal number without rounding it.
func parseMoney(text string) (Money, error) {
	whole, decimals, _ := strings.Cut(text, ".")
	wrong := errors.New("write an amount such as 20 or 0.05, with 6 decimals at most")
	if whole == "" || len(whole) > 9 || len(decimals) > maxDecimal || strings.HasSuffix(text, ".") {
		return 0, wrong
	}
	var amount Money
	for _, c := range []byte(whole + decimals + strings.Repeat("0", maxDecimal-len(decimals))) {
		if c < '0' || c > '9' {
			return 0, wrong
		}
		amount = amount*10 + Money(c-'0')
	}
	if amount > maxMoney {
		return 0, wrong
	}
	return amount, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *Money) UnmarshalJSON(text []byte) (err error) {
	*m, err = parseMoney(string(text))
	return err
}

// MarshalJSON implements json.Marshaler.
func (m Money) MarshalJSON() ([]byte, error) { return []byte(m.String()), nil }

// String is the amount in decimals.
func (m Money) String() string {
	if m < 0 {
		return "-" + (-m).String()
	}
	text := fmt.Sprintf("%d.%06d", m/unit, m%unit)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// number is the amount for a program; "" if there is none.
func (m Money) number() json.Number {
	if m == 0 {
		return ""
	}
	return json.Number(m.String())
}

// Price is what a model's tokens cost.
type Price struct {
	// The model, or the beginning of its name and `*`. Of several that fit, the
	// longest counts, and the full name before all.
	Model string `json:"model"`

	// What a million tokens of input cost that the API has not cached.
	Input Money `json:"input"`

	// What a million tokens of input cost that the API has cached.
	CachedInput Money `json:"cached_input"`

	// What a million tokens of output cost, reasoning included.
	Output Money `json:"output"`
}

// Fee is what a call of a tool costs that runs at the API.
type Fee struct {
	// The tool: `web_search` (and its previews), `file_search`,
	// `code_interpreter`, `image_generation`, `mcp`, `shell` or `tool_search`.
	Tool string `json:"tool"`

	// What each call costs, beside its tokens. 0: nothing.
	Call Money `json:"call"`
}

// prices are what the operator says that everything costs.
type prices struct {
	models []Price
	fees   map[string]Money // by tool
}

// resolvePrices checks the operator's figures.
func resolvePrices(models []Price, fees []Fee) (*prices, error) {
	p := &prices{models: models, fees: make(map[string]Money)}
	seen := make(map[string]bool)
	for _, price := range models {
		switch {
		case !isModelPattern(price.Model):
			return nil, fmt.Errorf("price %q: write a model, or the beginning of its name and *", price.Model)
		case seen[price.Model]:
			return nil, fmt.Errorf("price %s stands there twice", price.Model)
		case max(price.Input, price.CachedInput, price.Output) > maxPrice:
			return nil, fmt.Errorf("price %s: a million tokens may cost a million at most", price.Model)
		}
		seen[price.Model] = true
	}
	for _, fee := range fees {
		if _, twice := p.fees[fee.Tool]; twice {
			return nil, fmt.Errorf("fee %s stands there twice", fee.Tool)
		}
		if hostedTool(fee.Tool) != fee.Tool {
			return nil, fmt.Errorf("fee %q: write one of %s: of no others, the calls can be counted", fee.Tool, strings.Join(countedTools[:], ", "))
		}
		if fee.Call > maxFee {
			return nil, fmt.Errorf("fee %s: a call may cost 1000 at most", fee.Tool)
		}
		p.fees[fee.Tool] = fee.Call
	}
	return p, nil
}

// of is the price of a model.
func (p *prices) of(model string) (found Price, ok bool) {
	for _, price := range p.models {
		if price.Model == model {
			return price, true
		}
		if matches(price.Model, model) && len(price.Model) > len(found.Model) {
			found, ok = price, true
		}
	}
	return found, ok
}

// cost is what a request costs, rounded up to a millionth.
func (p Price) cost(s Spent) Money {
	cached := min(s.Cached, s.Input)
	var amount Money
	var rest uint64
	for _, part := range []struct {
		perMillion Money
		tokens     int64
	}{{p.Input, s.Input - cached}, {p.CachedInput, cached}, {p.Output, s.Output}} {
		whole, more := times(part.perMillion, part.tokens)
		amount += whole
		rest += more
	}
	return amount + Money((rest+million-1)/million)
}

// times is what so many tokens cost, and the millionths of a millionth that are
// left over. It has a bound: no number that an upstream sends makes a sum less.
func times(perMillion Money, tokens int64) (amount Money, rest uint64) {
	high, low := bits.Mul64(uint64(perMillion), uint64(max(tokens, 0)))
	if high >= million {
		return maxPrice, 0
	}
	whole, rest := bits.Div64(high, low, million)
	if whole > uint64(maxPrice) {
		return maxPrice, 0
	}
	return Money(whole), rest
}

// matches reports whether a name is the pattern, or begins with what stands
// before its *.
func matches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// covers reports whether every name that the other pattern matches, the first
// one matches, too.
func covers(pattern, other string) bool {
	prefix, open := strings.CutSuffix(other, "*")
	if !open {
		return matches(pattern, other)
	}
	return strings.HasSuffix(pattern, "*") && matches(pattern, prefix)
}

func isModelPattern(text string) bool {
	name := strings.TrimSuffix(text, "*")
	return text != "" && len(text) <= maxModelName && isModel(name)
}

// maxModelName is how long a model's name may be.
const maxModelName = 256

// estimate is what a request may cost whose answer has so many tokens.
func (r *request) estimate(output int64) amount {
	spent := Spent{Input: r.input(), Output: output}
	spent.Estimated = spent.Input + output
	return amount{spent.Estimated, r.cost(spent, toolCalls{})}
}

// cost is what a request costs, with the calls of tools in its answer. Of an
// answer that was not read to its end, each tool on offer counts once at least.
func (r *request) cost(spent Spent, calls toolCalls) Money {
	if r.price == nil {
		return 0
	}
	cost := r.price.cost(spent)
	fees := calls.cost(r.fees)
	if spent.Estimated > 0 {
		fees = max(fees, r.offered)
	}
	return min(cost+fees, 4*maxPrice)
}
