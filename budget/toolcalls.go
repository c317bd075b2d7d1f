package budget

import (
	"slices"
	"strings"
)

// countedTools are the tools whose calls an answer tells, as items of the type
// <tool>_call.
var countedTools = [...]string{"web_search", "file_search", "code_interpreter", "image_generation", "mcp", "shell", "tool_search"}

// toolCalls are how many calls of each of them an answer has.
type toolCalls [len(countedTools)]int32

// maxCalls bounds what an answer can be charged for.
const maxCalls = 1 << 20

// add counts an item of an answer, by its type.
func (c *toolCalls) add(kind string) {
	tool, ok := strings.CutSuffix(kind, "_call")
	if i := slices.Index(countedTools[:], tool); ok && i >= 0 {
		c[i] = min(c[i]+1, maxCalls)
	}
}

func (c *toolCalls) plus(more *toolCalls) {
	for i := range c {
		c[i] = min(c[i]+more[i], maxCalls)
	}
}

// atLeast counts what another count has more of.
func (c *toolCalls) atLeast(other *toolCalls) {
	for i := range c {
		c[i] = max(c[i], other[i])
	}
}

// cost is what the calls cost.
func (c *toolCalls) cost(fees map[string]Money) (sum Money) {
	for i, tool := range countedTools {
		sum += min(fees[tool]*Money(c[i]), maxPrice)
	}
	return sum
}

// hostedTool is a tool without what stands behind its name (web_search_preview,
// dates); "" if its calls cannot be counted.
func hostedTool(kind string) string {
	for _, tool := range countedTools {
		if rest, ok := strings.CutPrefix(kind, tool); ok && (rest == "" || strings.HasPrefix(rest, "_preview") || strings.HasPrefix(rest, "_20")) {
			return tool
		}
	}
	return ""
}
