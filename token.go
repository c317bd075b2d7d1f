package responsesproxygate

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// tokenBytes is the size of a generated token: 256 bits, 43 characters of
// base64url without padding.
const tokenBytes = 32

// minTokenLength is the least length of a token that the operator chooses.
// It is what 192 random bits take in base64.
const minTokenLength = 32

// newToken makes a launch token. crypto/rand never fails: it crashes the
// process rather than return something that can be guessed.
func newToken() secret {
	raw := make([]byte, tokenBytes)
	_, _ = rand.Read(raw)
	return newSecret(base64.RawURLEncoding.EncodeToString(raw))
}

// tokenSet is the tokens that a gate accepts, by the name of their caller.
// It keeps digests only. Digests have one length, so a comparison takes the
// same time whatever was presented, its length included.
type tokenSet struct {
	callers []caller
}

type caller struct {
	name   string
	digest [sha256.Size]byte
}

func newTokenSet(name string, token secret) *tokenSet {
	return &tokenSet{callers: []caller{{name: name, digest: digestOf(token.reveal())}}}
}

// match finds the caller whose token this is, in constant time over all of
// them: every digest is compared, whether or not one before it was right.
func (s *tokenSet) match(presented string) (name string, ok bool) {
	digest := digestOf(presented)
	found := -1
	for i := range s.callers {
		equal := subtle.ConstantTimeCompare(digest[:], s.callers[i].digest[:])
		found = subtle.ConstantTimeSelect(equal, i, found)
	}
	if found < 0 {
		return "", false
	}
	return s.callers[found].name, true
}

// digestOf is a token's digest, without an allocation for one of usual length.
func digestOf(token string) [sha256.Size]byte {
	var buffer [128]byte
	return sha256.Sum256(append(buffer[:0], token...))
}

// launches holds what a gate keeps from its launch to the process's exit,
// across config reloads, by the gate's name: a *launch.
var launches = caddy.NewUsagePool()

// launch is the state of one gate that a reload keeps.
type launch struct {
	token secret

	mu        sync.Mutex
	configs   map[configID]*publication // the configs that use this gate: the running one, and during a reload the next
	current   publication               // what callers are told
	failure   error                     // why they are not told anything newer
	announced bool                      // the token was printed to stderr
}

// publication is what a config says of a gate, and has callers told about it.
type publication struct {
	path       string          // of the server-info file that the config claims; "" is none
	file       *serverInfoFile // nil without one
	info       serverInfo
	published  bool // callers were told
	started    bool // the config was started
	adminGuard bool // no admin endpoint may be open to others beside the gate
}

// openLaunch finds the gate's state, or begins it. Each success needs one
// closeLaunch.
func openLaunch(name string, config configID) (*launch, error) {
	value, _, err := launches.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &launch{token: newToken(), configs: make(map[configID]*publication)}, nil
	})
	if err != nil {
		return nil, err
	}
	l := value.(*launch)
	if err := l.claim(config); err != nil {
		_, _ = launches.Delete(name)
		return nil, err
	}
	return l, nil
}

// closeLaunch gives the gate's state back. The last one ends it.
func closeLaunch(name string, config configID, l *launch) error {
	err := l.abandon(config)
	_, deleteErr := launches.Delete(name)
	return errors.Join(err, deleteErr)
}

// abandon forgets a config. If callers were told what that config said, and
// another one remains, the new config has failed after it was started: what
// the old one said holds again.
func (l *launch) abandon(config configID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := l.configs[config]
	delete(l.configs, config)
	if left == nil || !left.published || left.info != l.current.info {
		return nil
	}
	for _, remaining := range l.configs {
		switch {
		case remaining.published:
			return l.tell(*remaining)
		case remaining.started && remaining.info != l.current.info && l.current.file != nil:
			// The new config runs and could not tell callers so (a full
			// disk). What they are told now may lead them, and their token,
			// to a port that anybody can take.
			stale := l.current
			l.current = publication{}
			return stale.file.remove(stale.info)
		}
	}
	return nil
}

// claim refuses a second gate of the same name in one config: the two would
// share a token and overwrite each other's server-info.
func (l *launch) claim(config configID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.configs[config] != nil {
		return errors.New("another gate in this config has the same name (a site with several ports makes one for each); give each its own: name <name>")
	}
	l.configs[config] = new(publication)
	return nil
}

// claimFile refuses a server-info file that another gate of the same config
// has: each would overwrite the other's.
func (l *launch) claimFile(config configID, file *serverInfoFile) (err error) {
	path := file.resolved()
	launches.Range(func(name, value any) bool {
		if other := value.(*launch); other != l && other.fileIn(config) == path {
			err = fmt.Errorf("server_info %s: the gate %s has the same file; give each its own", file.path, name)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs[config].path = path
	return nil
}

// fileIn is the path of the gate's server-info in a config, or "".
func (l *launch) fileIn(config configID) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.configs[config]; p != nil {
		return p.path
	}
	return ""
}

// guardAdmin says whether a config forbids an admin endpoint that others can
// reach beside this gate.
func (l *launch) guardAdmin(config configID, guard bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs[config].adminGuard = guard
}

// anyGuardsAdmin tells whether a gate runs that forbids an open admin endpoint.
func anyGuardsAdmin() (guards bool) {
	launches.Range(func(_, value any) bool {
		l := value.(*launch)
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, config := range l.configs {
			guards = guards || config.started && config.adminGuard
		}
		return !guards
	})
	return guards
}

// start notes that a config runs.
func (l *launch) start(config configID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.configs[config].started = true
}

// publish makes info what the gate tells callers, in the name of a config: it
// writes the server-info file, if anything in it changed, and then removes the
// one at the gate's former path. A nil file is none.
func (l *launch) publish(config configID, file *serverInfoFile, info serverInfo) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := *l.configs[config]
	next.file, next.info = file, info
	l.failure = l.tell(next)
	next.published = l.failure == nil
	*l.configs[config] = next
	return l.failure
}

// tell is publish, for a caller that holds the lock.
func (l *launch) tell(next publication) error {
	if next.file != nil {
		if err := next.file.write(next.info); err != nil {
			return err
		}
	}
	former := l.current
	l.current, l.current.published = next, true
	if former.file != nil && former.path != next.path {
		return former.file.remove(former.info)
	}
	return nil
}

// publishedInfo is what the gate of this name tells callers, or why it does not.
func publishedInfo(gate string) (info serverInfo, err error) {
	err = errors.New("the gate has not started")
	launches.Range(func(name, value any) bool {
		if name != gate {
			return true
		}
		l := value.(*launch)
		l.mu.Lock()
		defer l.mu.Unlock()
		if info, err = l.current.info, l.failure; err == nil && !l.current.published {
			err = errors.New("the gate does not listen")
		}
		return false
	})
	return info, err
}

// announce prints the token, once a launch. It is for gates that have no
// server-info file: the logger would put the token where logs go.
func (l *launch) announce(out io.Writer, gate string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.announced {
		return
	}
	l.announced = true
	_, _ = fmt.Fprintf(out, "responses_proxy_gate %s: the token of this launch is %s\n", gate, l.token.reveal())
}

// Destruct implements caddy.Destructor: the gate is gone from the config, or
// Caddy exits.
func (l *launch) Destruct() error {
	l.mu.Lock()
	last := l.current
	l.mu.Unlock()
	if last.file == nil {
		return nil
	}
	if other := launchAt(last.path); other != nil {
		// Another gate has the file now. With a fixed token, its content may
		// be the same to the letter. Or that gate had it before, and the
		// config that took it over has failed.
		return other.retell()
	}
	return last.file.remove(last.info)
}

// launchAt finds the gate that tells callers through a server-info file.
func launchAt(path string) (found *launch) {
	launches.Range(func(_, value any) bool {
		other := value.(*launch)
		other.mu.Lock()
		defer other.mu.Unlock()
		if other.current.file != nil && other.current.path == path {
			found = other
		}
		return found == nil
	})
	return found
}

// retell writes what callers are told again, if somebody else has changed it.
func (l *launch) retell() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current.file == nil {
		return nil
	}
	return l.current.file.write(l.current.info)
}

// Interface guard
var _ caddy.Destructor = (*launch)(nil)
