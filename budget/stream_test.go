package budget

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// streamTold is what a slow reader of the specification finds in a stream.
func streamTold(stream string) (u usage, final, understood bool) {
	stream = strings.TrimPrefix(stream, byteOrderMark)
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	var data []string
	var begun toolCalls
	understood = true
	end := func() {
		if data == nil || final {
			return
		}
		var event map[string]any
		if err := json.Unmarshal([]byte(strings.Join(data, "\n")), &event); err != nil {
			understood = false
		}
		switch event["type"] {
		case "response.output_item.added":
			item, _ := event["item"].(map[string]any)
			kind, _ := item["type"].(string)
			begun.add(kind)
		case "response.completed", "response.incomplete", "response.failed":
			u, final = told(event["response"]), true
			u.calls.atLeast(&begun)
		}
		data = nil
	}
	for line := range strings.SplitSeq(stream, "\n") {
		if line == "" {
			end()
			continue
		}
		if name, value, _ := strings.Cut(line, ":"); name == "data" {
			data = append(data, strings.TrimPrefix(value, " "))
		}
	}
	end() // the API's last event may lack the empty line
	return u, final, understood
}

const completed = `{"type":"response.completed","response":{"model":"gpt-5","usage":{"input_tokens":12,"output_tokens":34}}}`

var streams = []string{
	"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-5\",\"usage\":null}}\n\n" +
		"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\nevent: response.completed\ndata: " + completed + "\n\n",
	"data: " + completed, "data:" + completed + "\r\n\r\n", "data: " + completed + "\r\r", byteOrderMark + "data: " + completed + "\n\n",
	"data: {\"type\":\"response.failed\",\ndata: \"response\":\ndata: {\"usage\":{\"input_tokens\":1,\ndata:\"output_tokens\":2}}}\n\n",
	": a comment\nid: 1\nretry: 5\ndata\ndata: " + completed + "\n\n", "data : " + completed + "\n\n", "xdata: " + completed + "\n\n", "datas: " + completed + "\n\n",
	"data: {\"response\":{\"usage\":{\"output_tokens\":2,\"input_tokens\":1}},\"type\":\"response.incomplete\"}\n\ndata: " + completed + "\n\n",
	"data: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"web_search_call\"}}\n\ndata: {\"item\":{\"type\":\"mcp_call\"},\"type\":\"response.output_item.added\"}\n\ndata: " + completed + "\n\n",
	"data: {\"type\":\"response.output_text.delta\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n", "\xef\xbbdata: {}\n\n", "data: [DONE]\n\n",
}

func FuzzStreamsCostWhatASlowReaderFinds(f *testing.F) {
	for i, stream := range streams {
		f.Add(stream, uint8(i))
	}
	f.Fuzz(func(t *testing.T, stream string, step uint8) {
		s, times := new(eventScanner), 0
		feed([]byte(stream), step, func(p []byte) {
			if s.feed(p) {
				times++
			}
		})
		want, final, understood := streamTold(stream)
		if !understood || strings.ContainsRune(stream, '\ufffd') || strings.Contains(want.model, "\ufffd") || wide(want.model) {
			return // an event that is no JSON may be read in any way
		}
		if s.final != final || final && s.found != want {
			t.Errorf("%q: got %v %+v, want %v %+v", stream, s.final, s.found, final, want)
		}
		if final && times != 1 {
			t.Errorf("%q: the usage became known %d times", stream, times)
		}
	})
}

func TestAnEventOfMegabytesIsReadInConstantMemory(t *testing.T) {
	piece := []byte(strings.Repeat("x", 1<<20))
	head, tail := []byte(`data: {"type":"response.completed","response":{"output":[{"text":"`), []byte(`"}],"usage":{"input_tokens":1,"output_tokens":2}}}`)
	s := new(eventScanner)
	allocated := testing.AllocsPerRun(3, func() {
		*s = eventScanner{}
		s.feed(head)
		for range 8 {
			s.feed(piece)
		}
		if !s.feed(tail) || !s.found.told {
			t.Error("the usage was not found")
		}
	})
	if allocated > 20 {
		t.Errorf("%v allocations", allocated)
	}
}

// Some models write faster than is estimated, and callers can see how much.
func TestAnAnswerThatBreaksOffCostsNoLessThanThePiecesThatCame(t *testing.T) {
	delta := "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n"
	for _, c := range []struct {
		came    int
		ceiling int64
		want    int64
	}{{3, 5000, tokensPerSecond}, {1000, 5000, 1000}, {1000, 500, 500}} {
		synctest.Test(t, func(t *testing.T) {
			h := open(t, t.TempDir(), daily)
			call(t, h, "codex", asking(int(c.ceiling)), handlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Content-Type", "text/event-stream")
				_, err := io.WriteString(w, strings.Repeat(delta, c.came))
				return err
			}))
			if got := spentBy(t, h, "codex", "1d"); got.Output != c.want || got.Estimated != got.Input+c.want {
				t.Errorf("%d of %d pieces cost %+v, want %d tokens", c.came, c.ceiling, got, c.want)
			}
		})
	}
}
