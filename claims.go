package responsesproxygate

import (
	"slices"
	"sync"
)

// claims finds the callers that have claimed a server-info file, in any config.
var claims = fileClaims{callers: make(map[string][]*caller)}

type fileClaims struct {
	mu      sync.Mutex
	callers map[string][]*caller // by the file's path
}

// of are the callers that may be told through the file at a path.
func (x *fileClaims) of(path string) []*caller {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.callers[path])
}

// add notes a claim, which lasts until the caller is gone.
func (x *fileClaims) add(path string, c *caller) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Contains(x.callers[path], c) {
		x.callers[path] = append(x.callers[path], c)
		c.claimed = append(c.claimed, path)
	}
}

// drop forgets a caller's claims.
func (x *fileClaims) drop(c *caller) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, path := range c.claimed {
		if rest := slices.DeleteFunc(x.callers[path], func(other *caller) bool { return other == c }); len(rest) > 0 {
			x.callers[path] = rest
			continue
		}
		delete(x.callers, path)
	}
	c.claimed = nil
}
