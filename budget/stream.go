package budget

import "bytes"

// eventScanner finds the usage in a stream of events (WHATWG HTML §9.2.6) that
// is fed to it in pieces, in constant memory.
type eventScanner struct {
	json *jsonScanner // of the event at hand; nil between events, which is where most streams are
	bom  int          // bytes of a byte order mark that have come; -1: it is over
	line lineState
	name []byte // of the field at hand, so far
	room [len("data") + 1]byte
	cr   bool // the last line ended with CR: an LF belongs to it
	data bool // the event at hand has a line of data
	came bool // an event with data that is JSON

	found  usage
	calls  toolCalls // that have begun
	deltas int64     // pieces of the answer that have come
	final  bool      // an event that ends the response has come
}

type lineState int8

const (
	lineName    lineState = iota // in the name of a field
	lineSpace                    // behind the colon of data
	lineData                     // in its value
	lineIgnored                  // in another one's
)

// eventKind is what an event is, as far as that matters here.
type eventKind int8

const (
	kindOther eventKind = iota
	kindItem            // an item of the answer has begun
	kindDelta           // a piece of it: a token or more
	kindEnd             // the answer has ended
)

func kindOf(text []byte) eventKind {
	switch string(text) {
	case "response.output_item.added":
		return kindItem
	case "response.completed", "response.incomplete", "response.failed":
		return kindEnd
	}
	if bytes.HasSuffix(text, []byte(".delta")) {
		return kindDelta
	}
	return kindOther
}

const byteOrderMark = "\xef\xbb\xbf"

// feed takes the next piece, and reports whether the usage is known now and
// was not before.
func (s *eventScanner) feed(p []byte) bool {
	if s.final {
		return false
	}
	for s.bom >= 0 && len(p) > 0 {
		if p[0] != byteOrderMark[s.bom] {
			p = append([]byte(byteOrderMark[:s.bom]), p...) // it was none
			s.bom = -1
			break
		}
		p = p[1:]
		if s.bom++; s.bom == len(byteOrderMark) {
			s.bom = -1
		}
	}
	for len(p) > 0 && !s.final {
		n := bytes.IndexAny(p, "\r\n")
		if n < 0 {
			s.inLine(p)
			break
		}
		s.inLine(p[:n])
		if p[n] == '\n' && s.cr && n == 0 {
			s.cr = false // of a CRLF
		} else {
			s.cr = p[n] == '\r'
			s.endLine()
		}
		p = p[n+1:]
	}
	return s.final
}

// inLine takes a piece of a line.
func (s *eventScanner) inLine(p []byte) {
	if len(p) == 0 {
		return
	}
	s.cr = false
	if s.line == lineName {
		n := bytes.IndexByte(p, ':')
		name := p
		if n >= 0 {
			name = p[:n]
		}
		if s.name == nil {
			s.name = s.room[:0]
		}
		s.name = append(s.name, name[:min(len(name), cap(s.name)-len(s.name))]...)
		if n < 0 {
			return
		}
		p = p[n+1:]
		s.line = lineIgnored
		if string(s.name) == "data" {
			s.startData()
			s.line = lineSpace
		}
	}
	if s.line == lineSpace && len(p) > 0 {
		if p[0] == ' ' {
			p = p[1:]
		}
		s.line = lineData
	}
	if s.line == lineData && s.json != nil {
		if s.json.feed(p); s.json.done {
			s.look()
			s.letGo()
		}
	}
}

// startData begins a line of data; several make one text, with line feeds between.
func (s *eventScanner) startData() {
	switch {
	case !s.data:
		s.json = newScanner(placeEvent)
	case s.json != nil:
		s.json.feed([]byte{'\n'})
	}
	s.data = true
}

// letGo ends the JSON of the event at hand.
func (s *eventScanner) letGo() {
	if s.json != nil {
		scanners.Put(s.json)
		s.json = nil
	}
}

// endLine ends a line; an empty one ends the event.
func (s *eventScanner) endLine() {
	empty := s.line == lineName && len(s.name) == 0
	s.line, s.name = lineName, nil
	if empty {
		s.data = false
		s.letGo()
	}
}

// look takes the usage from an event whose JSON is complete.
func (s *eventScanner) look() {
	s.came = true
	if model := s.json.found.model; model != "" {
		s.found.model = model // of a response that has begun
	}
	switch s.json.kind {
	case kindItem:
		s.calls.plus(&s.json.begun)
	case kindDelta:
		s.deltas++
	case kindEnd:
		s.found, s.final = s.json.usage(), true
		s.found.calls.atLeast(&s.calls)
	}
}
