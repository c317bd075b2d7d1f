// Package identity answers one question: whose key is it, if there is none? It
// exchanges a workload's own identity token (of a Kubernetes pod, a SPIFFE
// workload, a job of GitHub Actions) for a token of the upstream's that lives
// for an hour or so (RFC 8693), and again before that ends.
package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/backoff"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// Config says whose identity is exchanged for whose token, and where.
type Config struct {
	Endpoint       string // default: DefaultEndpoint
	Provider       string // the identity provider's id at OpenAI
	ServiceAccount string // the service account's
	SubjectType    string // of the workload's token: jwt (default) or id_token
	Source         Source
}

func (c *Config) subjectType() string {
	if c.SubjectType == "" {
		return "jwt"
	}
	return c.SubjectType
}

// Check refuses what cannot work, without asking anybody.
func (c *Config) Check() error {
	switch {
	case c.Provider == "":
		return errors.New("provider is missing: the identity provider's id at OpenAI")
	case c.ServiceAccount == "":
		return errors.New("service_account is missing: the service account's id at OpenAI")
	case c.Source == nil:
		return errors.New("the source of the workload's token is missing; write token_file or github_actions")
	case c.subjectType() != "jwt" && c.subjectType() != "id_token":
		return errors.New("token_type is neither jwt nor id_token")
	}
	if err := CheckURL(c.Endpoint); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	return c.Source.Check()
}

// Follower is told of exchanges. Its functions are called one after the other.
type Follower struct {
	// Token is called with each token, before anybody may use it, and its end.
	Token func(token secret.Secret, end time.Time)

	// Exchanged is called after each exchange, with its failure or nil. It is
	// news if the one before had another outcome. One of an exchanger's
	// followers is the speaker, who logs for all.
	Exchanged func(failure *Failure, news, speaker bool)
}

// held is a token, and for how long.
type held struct {
	secret    secret.Secret
	renewAt   time.Time // exchanges begin ahead of the end
	until     time.Time // by the monotonic clock, which stands still while the machine sleeps
	untilWall time.Time // by the wall clock, which can be set
	refused   atomic.Bool
}

// trusted reports whether nothing speaks against the token.
func (t *held) trusted(now, wall time.Time) bool {
	return t != nil && !t.refused.Load() && now.Before(t.until) && wall.Before(t.untilWall)
}

// possible reports whether the token may still be taken: one that was refused,
// or whose end is past only by a wall clock that may be wrong.
func (t *held) possible(now time.Time) bool { return t != nil && now.Before(t.until) }

const (
	// lookEvery is how often the clocks are compared: a timer stands still
	// while the machine sleeps.
	lookEvery = 20 * time.Second

	// maxWait is how long a request waits for an exchange: a little more than
	// its two requests may take.
	maxWait = 2*requestTimeout + 5*time.Second
)

// Exchanger keeps a token fresh. There is one exchange at a time, however many
// ask for the token.
type Exchanger struct {
	config Config
	client *http.Client
	wall   func() time.Time // without a monotonic clock
	wake   chan struct{}
	stop   context.CancelFunc
	ended  chan struct{}

	failures backoff.Backoff // of the exchange
	renewals backoff.Backoff // of exchanges because the upstream refused the token
	renewed  atomic.Bool     // since the upstream last took the token
	token    atomic.Pointer[held]

	telling sync.Mutex // while followers are told; before mu

	mu        sync.Mutex
	followers []*Follower
	round     chan struct{} // closed when the exchange that is under way, or was asked for, has ended; nil: there is none
	retryAt   time.Time     // not before, after a failure
	last      *Failure      // of the last exchange
}

// Start begins to exchange. Stop must be called in the end.
func Start(config Config) *Exchanger {
	if config.Endpoint == "" {
		config.Endpoint = DefaultEndpoint
	}
	e := newExchanger(config, newClient())
	e.start()
	return e
}

func newExchanger(config Config, client *http.Client) *Exchanger {
	return &Exchanger{
		config: config,
		client: client,
		wall:   func() time.Time { return time.Now().Round(0) },
		wake:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
	}
}

func (e *Exchanger) start() {
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	go e.run(ctx)
}

// Stop ends the exchanges. It does not wait for a file system that hangs.
func (e *Exchanger) Stop() { e.stop() }

// Follow has f told of every exchange until stop is called, and of the token
// that there is.
func (e *Exchanger) Follow(f *Follower) (stop func()) {
	e.telling.Lock()
	defer e.telling.Unlock()
	e.mu.Lock()
	e.followers = append(e.followers, f)
	e.mu.Unlock()
	if t := e.token.Load(); t != nil {
		f.Token(t.secret, t.untilWall)
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.followers = slices.DeleteFunc(e.followers, func(other *Follower) bool { return other == f })
	}
}

// Ready reports whether there is a token to use: at once while it lives, or
// when the exchange that it takes has ended.
func (e *Exchanger) Ready(ctx context.Context) error {
	if e.token.Load().trusted(time.Now(), e.wall()) {
		return nil
	}
	round, failure := e.ask()
	if round == nil {
		return failure
	}
	ctx, cancel := context.WithTimeout(ctx, maxWait) // a file system may hang
	defer cancel()
	select {
	case <-round:
	case <-ctx.Done():
		return e.why(ctx.Err())
	}
	return e.answer()
}

// ask has an exchange begun, unless one is under way, or the last one has
// failed just now.
func (e *Exchanger) ask() (round chan struct{}, failure error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.token.Load().trusted(now, e.wall()) {
		return nil, nil
	}
	if e.round == nil {
		if now.Before(e.retryAt) {
			return nil, e.answerLocked(now)
		}
		e.round = make(chan struct{})
		e.alarm()
	}
	return e.round, nil
}

func (e *Exchanger) answer() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.answerLocked(time.Now())
}

// answerLocked is nil if there is a token that the upstream may take.
func (e *Exchanger) answerLocked(now time.Time) error {
	if e.last == nil || e.token.Load().possible(now) {
		return nil
	}
	return e.last
}

func (e *Exchanger) alarm() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// First waits for the first token, if there never was one. After a failure that
// may pass, it tries again until ctx is done.
func (e *Exchanger) First(ctx context.Context) error {
	for e.token.Load() == nil {
		err := e.Ready(ctx)
		failure := (*Failure)(nil)
		if err == nil || errors.As(err, &failure) && !failure.MayPass() {
			return err
		}
		select {
		case <-ctx.Done():
			return e.why(err)
		case <-time.After(backoff.First):
		}
	}
	return nil
}

// why is err, or the failure of the last exchange, which says more.
func (e *Exchanger) why(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.last != nil {
		return e.last
	}
	if failure := (*Failure)(nil); errors.As(err, &failure) {
		return err
	}
	return failed(Unavailable, "the exchange is not done yet (%v)", err)
}

// Renew has the token exchanged at once, because the upstream has refused it.
// If it refuses the next one, too, the wait before the one after that grows.
func (e *Exchanger) Renew() {
	try, ok := e.renewals.Begin()
	if !ok {
		return
	}
	if _, began := e.renewals.Refused(try); !began {
		return
	}
	e.renewed.Store(true)
	if t := e.token.Load(); t != nil {
		t.refused.Store(true)
	}
	e.alarm()
}

// Accepted notes that the upstream has taken the token.
func (e *Exchanger) Accepted() {
	if e.renewed.Load() && e.renewed.CompareAndSwap(true, false) {
		e.renewals.Reset()
	}
}

// Status is what can be told of the token.
type Status struct {
	Left    time.Duration // until the token's end, below zero after it; 0: there was none yet
	Failure *Failure      // of the last exchange; nil: it succeeded
}

// Status tells how things are.
func (e *Exchanger) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{Failure: e.last}
	if t := e.token.Load(); t != nil {
		s.Left = min(time.Until(t.until), t.untilWall.Sub(e.wall()))
	}
	return s
}

// run exchanges until ctx is done.
func (e *Exchanger) run(ctx context.Context) {
	defer close(e.ended)
	for {
		timer := time.NewTimer(e.untilNext())
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-e.wake:
			timer.Stop()
		case <-timer.C:
		}
		if e.isDue() {
			e.exchange(ctx)
		}
	}
}

// untilNext is how long nothing has to be done, or looked at.
func (e *Exchanger) untilNext() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := e.retryAt
	if t := e.token.Load(); t != nil && t.renewAt.After(next) && t.trusted(time.Now(), e.wall()) {
		next = t.renewAt
	}
	return max(0, min(time.Until(next), lookEvery))
}

// isDue reports whether an exchange is to begin. It may not while the wait
// after a failure lasts.
func (e *Exchanger) isDue() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if now.Before(e.retryAt) {
		return false
	}
	t := e.token.Load()
	if e.round == nil && t.trusted(now, e.wall()) && now.Before(t.renewAt) {
		return false
	}
	if e.round == nil {
		e.round = make(chan struct{})
	}
	return true
}

// exchange makes one exchange.
func (e *Exchanger) exchange(ctx context.Context) {
	try, _ := e.failures.Begin()
	begun, begunWall := time.Now(), e.wall()
	token, life, failure := e.config.exchange(ctx, e.client)
	if ctx.Err() != nil {
		failure = failed(Unavailable, "the gate is stopping")
	}
	e.telling.Lock()
	defer e.telling.Unlock()
	e.mu.Lock()
	followers, news := slices.Clone(e.followers), failure.outcome() != e.last.outcome()
	e.mu.Unlock()
	if failure == nil {
		// A token that is on its way when it ends would be refused.
		margin := min(life/10, 5*time.Second)
		next := &held{
			secret:    token,
			renewAt:   begun.Add(life*3/5 + rand.N(life/5)),
			until:     begun.Add(life - margin),
			untilWall: begunWall.Add(life - margin),
		}
		for _, f := range followers {
			f.Token(next.secret, next.untilWall)
		}
		e.token.Store(next)
	}
	e.mu.Lock()
	e.last = failure
	if failure == nil {
		e.failures.Reset()
		e.retryAt = time.Time{}
	} else {
		wait, _ := e.failures.Refused(try)
		wait = max(wait, backoff.First)
		e.retryAt = time.Now().Add(wait + rand.N(wait/4))
	}
	close(e.round)
	e.round = nil
	e.mu.Unlock()
	for i, f := range followers {
		f.Exchanged(failure, news, i == 0)
	}
}
