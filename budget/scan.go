package budget

import (
	"math"
	"strconv"
	"sync"
	"unicode/utf8"
)

// usage is what an answer says it has cost (the API's usage object).
type usage struct {
	model                            string
	input, cached, output, reasoning int64
	told                             bool // input and output are there
	calls                            toolCalls
}

// jsonScanner finds type, model and usage in one JSON value that is fed to it
// in pieces. It keeps no more of it than one short key and one short value,
// however long the value is. Names are compared exactly; of a name that stands
// twice, the last counts. What is no JSON may be read in any way: the upstream
// is trusted, and a parser that refused would only estimate.
type jsonScanner struct {
	state   scanState
	within  [maxWithin]place // the objects that are of interest, from the outside in
	depth   int              // how many of them are open
	skipped int              // containers that are open inside of one that is not
	at      place            // what the value at hand is
	escape  int8             // where in an escape the string at hand is: 0 not, 1 behind the backslash, 2 to 5 digits to come
	code    rune             // of a \u escape, so far
	text    []byte           // the key or value at hand, if it is of interest and short
	long    bool             // it is longer than that
	buffer  [maxText]byte

	kind  eventKind
	calls toolCalls // of the list of items
	begun toolCalls // of the event's own item
	item  string    // the type of the item at hand
	found usage
	seen  [placeReasoning + 1]bool
	done  bool // the value has ended
}

const (
	maxWithin = 4            // event > response > usage > details
	maxText   = maxModelName // no name or value of interest is longer
)

type scanState int8

const (
	scanValue    scanState = iota // before a value
	scanKey                       // before a key, or the end of an object
	scanKeyText                   // in a key
	scanColon                     // behind a key
	scanText                      // in a string
	scanScalar                    // in a number, true, false or null
	scanAfter                     // behind a value
	scanSkip                      // in a container without interest
	scanSkipText                  // in a string in there
)

// place is what a value is, by the names that lead to it.
type place int8

const (
	placeOther place = iota
	placeEvent
	placeResponse
	placeUsage
	placeInputDetails
	placeOutputDetails
	placeType
	placeModel
	placeInput
	placeCached
	placeOutput
	placeReasoning
	placeItems // a list, which is looked into like an object
	placeItem
	placeItemType
)

// below is what stands under a key of an object.
func (p place) below(key []byte) place {
	switch p {
	case placeEvent:
		switch string(key) {
		case "type":
			return placeType
		case "response":
			return placeResponse
		case "item":
			return placeItem
		}
	case placeResponse:
		switch string(key) {
		case "model":
			return placeModel
		case "usage":
			return placeUsage
		case "output":
			return placeItems
		}
	case placeItem:
		if string(key) == "type" {
			return placeItemType
		}
	case placeUsage:
		switch string(key) {
		case "input_tokens":
			return placeInput
		case "output_tokens":
			return placeOutput
		case "input_tokens_details":
			return placeInputDetails
		case "output_tokens_details":
			return placeOutputDetails
		}
	case placeInputDetails:
		if string(key) == "cached_tokens" {
			return placeCached
		}
	case placeOutputDetails:
		if string(key) == "reasoning_tokens" {
			return placeReasoning
		}
	}
	return placeOther
}

// newScanner reads one value, which is an event or a whole answer. Most last
// but a moment, so that they are used again.
func newScanner(root place) *jsonScanner {
	s := scanners.Get().(*jsonScanner)
	*s = jsonScanner{at: root}
	return s
}

var scanners = sync.Pool{New: func() any { return new(jsonScanner) }}

// usage is what has been found once the value has ended.
func (s *jsonScanner) usage() usage {
	u := s.found
	u.told = s.seen[placeInput] && s.seen[placeOutput]
	u.calls = s.calls
	return u
}

// feed takes the next piece.
func (s *jsonScanner) feed(p []byte) {
	for i := 0; i < len(p) && !s.done; i++ {
		switch s.state {
		case scanKeyText, scanText, scanSkipText:
			if s.escape == 0 {
				// the long way through a string is the one without escapes
				n := i
				for n < len(p) && p[n] != '"' && p[n] != '\\' {
					n++
				}
				s.keep(p[i:n])
				if n == len(p) {
					return
				}
				i = n
			}
			s.inString(p[i])
		case scanSkip:
			for i < len(p) && !opensOrEnds[p[i]] {
				i++
			}
			if i < len(p) {
				s.outside(p[i])
			}
		default:
			s.outside(p[i])
		}
	}
}

// opensOrEnds are the bytes that matter in a container without interest.
var opensOrEnds = [256]bool{'"': true, '{': true, '[': true, '}': true, ']': true}

// outside takes a byte that is in no string.
func (s *jsonScanner) outside(c byte) {
	if s.state == scanScalar {
		if !isDelimiter(c) {
			s.keep([]byte{c})
			return
		}
		s.scalar()
		s.end() // and c is behind it
		if s.done {
			return
		}
	}
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		return
	}
	switch s.state {
	case scanValue:
		s.begin(c)
	case scanKey:
		switch c {
		case '"':
			s.startText(scanKeyText)
		case '}':
			s.close()
		}
	case scanColon:
		if c == ':' {
			s.at = s.within[s.depth-1].below(s.short())
			s.forget(s.at)
			s.state = scanValue
		}
	case scanAfter:
		switch c {
		case ',':
			s.state = scanKey
			if s.inItems() {
				s.at, s.state = placeItem, scanValue
			}
		case '}', ']':
			s.close()
		}
	case scanSkip:
		switch c {
		case '"':
			s.state = scanSkipText
		case '{', '[':
			s.skipped++
		case '}', ']':
			if s.skipped--; s.skipped == 0 {
				s.end()
			}
		}
	}
}

// begin takes the first byte of a value.
func (s *jsonScanner) begin(c byte) {
	switch {
	case c == '[' && s.at == placeItems:
		s.within[s.depth] = s.at
		s.depth++
		s.at = placeItem
	case c == ']' && s.inItems():
		s.close()
	case c == '{' && (s.at >= placeEvent && s.at <= placeOutputDetails || s.at == placeItem):
		s.within[s.depth] = s.at
		s.depth++
		s.state = scanKey
	case c == '{' || c == '[':
		s.skipped, s.state = 1, scanSkip
	case c == '"':
		s.startText(scanText)
	default:
		s.startText(scanScalar)
		s.keep([]byte{c})
	}
}

// inItems reports whether the list of an answer's items is the innermost open.
func (s *jsonScanner) inItems() bool { return s.depth > 0 && s.within[s.depth-1] == placeItems }

// close ends the object or list at hand.
func (s *jsonScanner) close() {
	s.depth--
	if s.within[s.depth] == placeItem {
		if s.inItems() {
			s.calls.add(s.item)
		} else {
			s.begun.add(s.item)
		}
		s.item = ""
	}
	s.end()
}

// end ends a value.
func (s *jsonScanner) end() {
	if s.depth == 0 {
		s.done = true
		return
	}
	s.state = scanAfter
}

func (s *jsonScanner) startText(state scanState) {
	s.state, s.text, s.long, s.escape = state, s.buffer[:0], false, 0
}

// keep appends to the text at hand, as far as there is room.
func (s *jsonScanner) keep(p []byte) {
	if s.state == scanSkipText || s.long {
		return
	}
	if len(s.text)+len(p) > maxText {
		s.long = true
		return
	}
	s.text = append(s.text, p...)
}

// short is the key or value that was read; nil if it is too long to be of interest.
func (s *jsonScanner) short() []byte {
	if s.long {
		return nil
	}
	return s.text
}

// inString takes a quote, a backslash or a byte of an escape.
func (s *jsonScanner) inString(c byte) {
	switch {
	case s.escape == 1:
		s.escape = 0
		switch c {
		case 'u':
			s.escape, s.code = 2, 0
		case 'b':
			s.keep([]byte{'\b'})
		case 'f':
			s.keep([]byte{'\f'})
		case 'n':
			s.keep([]byte{'\n'})
		case 'r':
			s.keep([]byte{'\r'})
		case 't':
			s.keep([]byte{'\t'})
		default:
			s.keep([]byte{c})
		}
	case s.escape >= 2:
		digit, err := strconv.ParseUint(string(c), 16, 8)
		if err != nil {
			digit = 0 // no JSON
		}
		s.code = s.code<<4 | rune(digit)
		if s.escape++; s.escape == 6 {
			s.escape = 0
			var encoded [utf8.UTFMax]byte
			s.keep(encoded[:utf8.EncodeRune(encoded[:], s.code)]) // (half of a surrogate pair is in no name of interest)
		}
	case c == '\\':
		s.escape = 1
	default: // the quote that ends it
		switch s.state {
		case scanKeyText:
			s.state = scanColon
		case scanSkipText:
			s.state = scanSkip
		case scanText:
			s.string()
			s.end()
		}
	}
}

// string takes a string that has ended.
func (s *jsonScanner) string() {
	switch s.at {
	case placeType:
		s.kind = kindOf(s.short())
	case placeModel:
		s.found.model = string(s.short())
	case placeItemType:
		s.item = string(s.short())
	}
}

// scalar takes a number or a word that has ended.
func (s *jsonScanner) scalar() {
	if s.at < placeInput || s.at > placeReasoning || s.long {
		return
	}
	n, ok := tokens(string(s.text))
	if !ok {
		return
	}
	*s.number(s.at), s.seen[s.at] = n, true
}

// tokens reads a number of tokens.
func tokens(text string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, n >= 0 && n <= maxTokens
	}
	f, err := strconv.ParseFloat(text, 64) // 1e3, 12.0
	return int64(f), err == nil && f >= 0 && f <= maxTokens && f == math.Trunc(f)
}

// maxTokens is more than any answer can have cost; sums of it do not overflow.
const maxTokens = 1 << 40

func (s *jsonScanner) number(at place) *int64 {
	switch at {
	case placeInput:
		return &s.found.input
	case placeCached:
		return &s.found.cached
	case placeOutput:
		return &s.found.output
	}
	return &s.found.reasoning
}

// forget drops what stood under the same key before.
func (s *jsonScanner) forget(at place) {
	switch at {
	case placeResponse:
		s.found, s.seen = usage{}, [placeReasoning + 1]bool{}
		s.calls = toolCalls{}
	case placeUsage:
		s.found = usage{model: s.found.model}
		s.seen = [placeReasoning + 1]bool{}
	case placeInputDetails:
		s.forget(placeCached)
	case placeOutputDetails:
		s.forget(placeReasoning)
	case placeItems:
		s.calls = toolCalls{}
	case placeItem:
		s.begun = toolCalls{}
	case placeItemType:
		s.item = ""
	case placeType:
		s.kind = kindOther
	case placeModel:
		s.found.model = ""
	case placeInput, placeCached, placeOutput, placeReasoning:
		*s.number(at), s.seen[at] = 0, false
	}
}

// isDelimiter reports whether c ends a number or a word.
func isDelimiter(c byte) bool {
	switch c {
	case ',', '}', ']', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}
