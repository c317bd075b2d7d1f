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
	configs   map[configID]bool // the configs that use this gate: the running one, and during a reload the next
	announced bool              // the token was printed to stderr
	file      *serverInfoFile   // where info is written; nil if nowhere
	info      serverInfo        // what callers are told

	publishError error // why they are not
}

// openLaunch finds the gate's state, or begins it. Each success needs one
// closeLaunch.
func openLaunch(name string, config configID) (*launch, error) {
	value, _, err := launches.LoadOrNew(name, func() (caddy.Destructor, error) {
		return &launch{token: newToken(), configs: make(map[configID]bool)}, nil
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
	l.mu.Lock()
	delete(l.configs, config)
	l.mu.Unlock()
	_, err := launches.Delete(name)
	return err
}

// claim refuses a second gate of the same name in one config: the two would
// share a token and overwrite each other's server-info.
func (l *launch) claim(config configID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.configs[config] {
		return errors.New("another gate in this config has the same name (a site with several ports makes one for each); give each its own: name <name>")
	}
	l.configs[config] = true
	return nil
}

// publish makes info what the gate tells callers: it writes the server-info
// file, if anything in it changed, and then removes the one at the gate's
// former path. A nil file is none.
func (l *launch) publish(file *serverInfoFile, info serverInfo) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if file != nil {
		if err := file.write(info); err != nil {
			l.publishError = err
			return err
		}
	}
	former, formerInfo := l.file, l.info
	l.file, l.info, l.publishError = file, info, nil
	if former != nil && (file == nil || former.path != file.path) {
		return former.remove(formerInfo)
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
		if info, err = l.info, l.publishError; err == nil && info.PID == 0 {
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
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.remove(l.info)
}

// Interface guard
var _ caddy.Destructor = (*launch)(nil)
