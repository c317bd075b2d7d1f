package responsesproxygate

import (
	"errors"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"go.uber.org/zap"
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

// holds are the places for server-info files that this process holds against
// others, by path: an *infofile.Hold. Two configs share one during a reload.
var holds = caddy.NewUsagePool()

// hold keeps other processes from publishing the file that a config claims, and
// refuses one that another publishes. Without a lock for another reason (the
// disk is full, another user has put something in its place) the gate runs as well.
func (c *caller) hold(config configID, file *infofile.File, logger *zap.Logger) error {
	path := file.Resolved()
	_, _, err := holds.LoadOrNew(path, func() (caddy.Destructor, error) { return file.Hold() })
	if errors.Is(err, infofile.ErrInUse) {
		return err
	}
	if err != nil {
		logger.Warn("the place of a server-info file cannot be locked: a second gate could take it over", zap.Error(err))
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.configs[config].held = true
	return nil
}

// giveBack ends what hold began.
func (p *publication) giveBack() {
	if p != nil && p.held {
		p.held = false
		_, _ = holds.Delete(p.path)
	}
}
