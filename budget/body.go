package budget

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// asked is what a body asks for, as far as it matters here.
type asked struct {
	compact   bool // it is for /v1/responses/compact
	model     string
	maxOutput int64 // 0: it names none
	opens     opening
	tools     []string // that run at the API
	inTools   []string // models that tools name
	others    bool     // it names models beside "model", as some gateways take them

	keepsQuiet   bool // it does not say whether to store
	noCeilingAt  int  // where a max_output_tokens of null begins; 0: there is none
	firstAt      int  // behind the brace that opens the object
	hasNoMembers bool
}

// maxDepth is how deep a body may be nested: some ten times what clients send.
const maxDepth = 256

var (
	errNotStrict = errors.New("not strict JSON")
	errTooDeep   = errors.New("nested too deep")
)

// place of a value in a body.
type bodyPlace int8

const (
	bodyOther    bodyPlace = iota // what the caller defines, or what opens nothing
	bodyRoot                      // the whole
	bodyItem                      // the input, or an item of it
	bodyInput                     // somewhere in an item
	bodyTools                     // a list of tools
	bodyTool                      // one of it
	bodyToolPart                  // somewhere in one
)

// bodyReader reads a body. It is used again: the decoder has room for the names
// of an object, and more.
type bodyReader struct {
	decoder *jsontext.Decoder
	content bytes.Buffer // (from which the decoder reads without a copy)
}

var bodyReaders = sync.Pool{New: func() any {
	r := new(bodyReader)
	r.decoder = jsontext.NewDecoder(&r.content)
	return r
}}

// open begins to read a body. Half of a surrogate pair, which texts that were
// cut have, is no harm in a value.
func (r *bodyReader) open(content []byte) {
	r.content = *bytes.NewBuffer(content)
	r.decoder.Reset(&r.content, jsontext.AllowInvalidUTF8(true))
}

// letGo forgets the body.
func (r *bodyReader) letGo() {
	r.open(nil)
	bodyReaders.Put(r)
}

// readAsked reads a body. It is strict, so that no other parser can read
// something else: one object, in which no name stands twice, at any depth.
func readAsked(content []byte, compact bool) (asked, error) {
	reader := bodyReaders.Get().(*bodyReader)
	defer reader.letGo()
	reader.open(content)
	decoder := reader.decoder
	a := asked{compact: compact, keepsQuiet: true, hasNoMembers: true}
	if decoder.PeekKind() != '{' {
		return a, errNotStrict
	}
	if _, err := a.object(decoder, bodyRoot); err != nil {
		return a, err
	}
	if _, err := decoder.ReadToken(); err != io.EOF {
		return a, errNotStrict // a second value
	}
	if a.keepsQuiet && !compact {
		a.opens |= openStore
	}
	return a, nil
}

// element is what is known of an object once it has ended.
type element struct {
	kind, execution, environment string
	id, content, role            bool
	secret, result               bool // with something in it
	more                         bool // than a type, an id and a status
}

// value reads a value.
func (a *asked) value(d *jsontext.Decoder, at bodyPlace) error {
	switch d.PeekKind() {
	case '{':
		_, err := a.object(d, at)
		return err
	case '[':
		return a.array(d, at)
	}
	_, err := d.ReadToken()
	return err
}

// text reads a value, and returns its text if it is a string.
func (a *asked) text(d *jsontext.Decoder) (string, error) {
	if d.PeekKind() != '"' {
		return "", a.value(d, bodyOther)
	}
	token, err := d.ReadToken()
	if err != nil {
		return "", err
	}
	return token.String(), nil
}

func (a *asked) array(d *jsontext.Decoder, at bodyPlace) error {
	if at == bodyTools {
		at = bodyTool
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	if d.StackDepth() > maxDepth {
		return errTooDeep
	}
	for d.PeekKind() != ']' {
		if err := a.value(d, at); err != nil {
			return err
		}
	}
	_, err := d.ReadToken()
	return err
}

func (a *asked) object(d *jsontext.Decoder, at bodyPlace) (e element, err error) {
	if _, err := d.ReadToken(); err != nil {
		return e, err
	}
	if d.StackDepth() > maxDepth {
		return e, errTooDeep
	}
	if at == bodyRoot {
		a.firstAt = int(d.InputOffset())
	}
	for d.PeekKind() != '}' {
		name, err := readName(d, at)
		if err != nil {
			return e, err
		}
		switch at {
		case bodyOther:
			err = a.value(d, bodyOther)
		case bodyRoot:
			a.hasNoMembers = false
			err = a.member(d, name)
		default:
			err = a.inner(d, name, at, &e)
		}
		if err != nil {
			return e, err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return e, err
	}
	switch at {
	case bodyItem:
		a.item(e)
	case bodyTool:
		a.tool(e)
	}
	return e, nil
}

// member reads a member of the whole.
func (a *asked) member(d *jsontext.Decoder, name string) error {
	kind := d.PeekKind()
	switch name {
	case "model":
		model, err := a.text(d)
		a.model = model
		return err
	case "max_output_tokens":
		return a.ceiling(d)
	case "background", "store":
		return a.flag(d, name)
	case "previous_response_id":
		a.openIf(kind != 'n', openPreviousResponse)
	case "conversation":
		a.openIf(kind != 'n', openConversation)
	case "prompt":
		a.openIf(kind != 'n', openPrompt)
	case "service_tier":
		tier, err := a.text(d)
		a.openIf(kind != 'n' && tier != "auto" && tier != "default", openServiceTier)
		return err
	case "tools":
		if kind != '[' && kind != 'n' {
			return errNotStrict
		}
		return a.value(d, bodyTools)
	case "input":
		return a.value(d, bodyItem)
	case "models", "plugins", "fallbacks":
		a.others = a.others || kind != 'n'
	}
	return a.value(d, bodyOther)
}

// ceiling reads max_output_tokens.
func (a *asked) ceiling(d *jsontext.Decoder) error {
	if kind := d.PeekKind(); kind != 'n' && kind != '0' {
		return errNotStrict
	}
	value, err := d.ReadValue()
	if err != nil {
		return err
	}
	if value.Kind() == 'n' {
		a.noCeilingAt = int(d.InputOffset()) - len(value)
		return nil
	}
	n, ok := tokens(string(value))
	if !ok || n < 1 {
		return errNotStrict
	}
	a.maxOutput = n
	return nil
}

// flag reads background or store.
func (a *asked) flag(d *jsontext.Decoder, name string) error {
	kind := d.PeekKind()
	if kind != 't' && kind != 'f' && kind != 'n' {
		return errNotStrict
	}
	if name == "background" {
		a.openIf(kind == 't', openBackground)
	} else if kind != 'n' {
		a.keepsQuiet = false
		a.openIf(kind == 't', openStore)
	}
	_, err := d.ReadToken()
	return err
}

// inner reads a member of an object in the input or in a tool.
func (a *asked) inner(d *jsontext.Decoder, name string, at bodyPlace, e *element) (err error) {
	kind := d.PeekKind()
	given := kind != 'n'
	e.more = e.more || given && name != "type" && name != "id" && name != "status"
	switch name {
	case "type":
		e.kind, err = a.text(d)
		return err
	case "execution":
		e.execution, err = a.text(d)
		return err
	case "model":
		if at == bodyTool && given {
			model, err := a.text(d)
			if len(a.inTools) < maxTools {
				a.inTools = append(a.inTools, model)
			}
			a.others = a.others || len(a.inTools) == maxTools
			return err
		}
	case "image_url", "encrypted_content", "result":
		return a.long(d, name, e)
	case "environment":
		if at == bodyTool && kind == '{' {
			environment, err := a.object(d, bodyToolPart)
			e.environment = environment.kind
			return err
		}
	case "id":
		e.id = given
	case "content":
		e.content = given
	case "role":
		e.role = given
	case "file_id", "file_ids", "vector_store_ids", "container_id", "skill_id":
		a.openIf(given, openFiles)
	case "container":
		a.openIf(kind == '"', openFiles)
	case "file_url", "server_url":
		a.openIf(given, openURLs)
	}
	return a.value(d, at.below(name))
}

// below is what stands under a name in the input or in a tool.
func (p bodyPlace) below(name string) bodyPlace {
	switch name {
	case "parameters", "input_schema", "output_schema", "metadata":
		return bodyOther // the caller's own names
	case "tools":
		if p != bodyToolPart {
			return bodyTools // more of them: in a namespace, or found by a search
		}
	}
	switch p {
	case bodyItem:
		return bodyInput
	case bodyTool:
		return bodyToolPart
	}
	return p
}

// long reads a string that can be very long, without a copy of it.
func (a *asked) long(d *jsontext.Decoder, name string, e *element) error {
	kind := d.PeekKind()
	if kind != '"' {
		a.openIf(kind != 'n' && name == "image_url", openURLs)
		return a.value(d, bodyOther)
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	switch name {
	case "encrypted_content":
		e.secret = len(raw) > len(`""`)
	case "result":
		e.result = len(raw) > len(`""`)
	default:
		a.openIf(!bytes.HasPrefix(raw, []byte(`"data:`)), openURLs)
	}
	return nil
}

// item judges an item of the input. One that has an id, and not what makes an
// item of its kind, is a reference: the API may look for the rest.
func (a *asked) item(e element) {
	whole := e.more
	switch e.kind {
	case "item_reference":
		a.opens |= openItemReference
	case "", "message":
		whole = e.content && e.role
	case "reasoning", "compaction":
		whole = e.secret
	case "image_generation_call":
		whole = e.result
	}
	a.openIf(e.id && !whole, openItemReference)
}

// tool judges a tool.
func (a *asked) tool(e element) {
	switch e.kind {
	case "function", "custom", "namespace", "local_shell", "apply_patch", "computer", "computer_use_preview":
		return // the caller runs it
	case "shell":
		if e.environment == "local" {
			return
		}
	case "tool_search":
		if e.execution == "client" {
			return
		}
	case "mcp":
		a.opens |= openMCP
	}
	a.opens |= openHostedTools
	if !slices.Contains(a.tools, e.kind) && len(a.tools) < maxTools {
		a.tools = append(a.tools, e.kind)
	}
}

// maxTools bounds the kinds of tools that are looked at one by one. There are
// fewer whose calls are counted, so that one too many has no fee.
const maxTools = 64

func (a *asked) openIf(is bool, what opening) {
	if is {
		a.opens |= what
	}
}

// modelIsPlain reports whether the model's name is one that every reader reads alike.
func (a *asked) modelIsPlain() bool {
	return a.model != "" && len(a.model) <= maxModelName && isModel(a.model)
}

// withCeiling is the body with max_output_tokens in it, in pieces; everything
// else is as it was.
func (a *asked) withCeiling(content []byte, n int64) bodyPieces {
	number := strconv.FormatInt(n, 10)
	if at := a.noCeilingAt; at > 0 {
		return bodyPieces{content[:at], []byte(number), content[at+len("null"):]}
	}
	member := `"max_output_tokens":` + number
	if !a.hasNoMembers {
		member += ","
	}
	return bodyPieces{content[:a.firstAt], []byte(member), content[a.firstAt:]}
}
