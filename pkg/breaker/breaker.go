package breaker

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrOpen means that the instance failed lately.
	ErrOpen = errors.New("breaker: open")
	// ErrTrialsTaken means that as many calls as allowed are already trying whether
	// the instance works again.
	ErrTrialsTaken = errors.New("breaker: half-open and all trials are taken")
)

// Key names what a breaker is for. An instance that was restarted has another
// incarnation, and so a breaker without a past.
type Key struct {
	Service, Instance, Incarnation string
}

// Settings are when a breaker opens and closes. The zero Settings are ready to use.
type Settings struct {
	// Failures in a row that open a closed breaker. Default 5.
	Failures int
	// OpenFor is how long it stays open before it is half-open. Default 5s.
	OpenFor time.Duration
	// Trials is how many calls a half-open breaker lets through. It closes
	// when all of them succeed and opens when one fails. Default 1.
	Trials int
	// TrialTimeout is when a trial that was not reported gives its slot back, as if it
	// had been canceled. Default 10s.
	TrialTimeout time.Duration
	// OnChange is called after every change of state, one call at a time and in order,
	// with no lock held, on the goroutine that made the change or on that of a timer.
	// It may call State, Allow and Done, but not Close, which waits for it. Calls of the
	// breaker's methods do not wait for it.
	OnChange func(k Key, from, to State)
}

func (s Settings) withDefaults() Settings {
	if s.Failures <= 0 {
		s.Failures = 5
	}
	if s.OpenFor <= 0 {
		s.OpenFor = 5 * time.Second
	}
	s.OpenFor = min(s.OpenFor, math.MaxInt64-1) // one nanosecond is added to it
	if s.Trials <= 0 {
		s.Trials = 1
	}
	if s.TrialTimeout <= 0 {
		s.TrialTimeout = 10 * time.Second
	}
	return s
}

// Breaker is the circuit to one incarnation of an instance. Its methods are safe for
// concurrent use. While it is closed and calls succeed, no method locks, allocates or
// writes to it.
type Breaker struct {
	// word is the state, the flags and the generation (see stateBits). It is stored
	// with mu held, and loaded without.
	word atomic.Uint64

	key      Key
	settings Settings

	mu      sync.Mutex
	circuit *circuit // nil until the first failure
}

// New returns a closed Breaker for k. It has no timer and costs one small
// allocation until a call fails.
func New(k Key, s Settings) *Breaker {
	return &Breaker{key: k, settings: s.withDefaults()}
}

// State is what the breaker does with the next call. It is one atomic load: an open
// breaker turns half-open by itself.
func (b *Breaker) State() State { return stateOf(b.word.Load()) }

// Opened returns when an open breaker opened, and whether that was because the
// connection was refused. For a breaker that is not open it returns the zero time.
func (b *Breaker) Opened() (at time.Time, refused bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.State() != Open {
		return time.Time{}, false
	}
	return b.circuit.opened, b.circuit.refused
}

// Allow returns a pass if the instance may be called now. The end of that call must be
// reported with [Pass.Done]. The error is [ErrOpen] or [ErrTrialsTaken], not wrapped.
func (b *Breaker) Allow() (Pass, error) {
	word := b.word.Load()
	if stateOf(word) == Closed {
		return Pass{b, word &^ failedBit}, nil
	}
	return b.allowTrial()
}

// AllowClosed is Allow for a breaker that is closed; it returns false for any other. It
// is small enough to be inlined.
func (b *Breaker) AllowClosed() (Pass, bool) {
	word := b.word.Load()
	return Pass{b, word &^ failedBit}, word&stateBits == uint64(Closed)
}

func (b *Breaker) allowTrial() (Pass, error) {
	if b.State() == Open {
		return Pass{}, ErrOpen
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	word := b.word.Load()
	switch {
	case stateOf(word) == Closed:
		return Pass{b, word &^ failedBit}, nil
	case stateOf(word) == Open:
		return Pass{}, ErrOpen
	case word&endedBit != 0:
		return Pass{}, ErrTrialsTaken
	}
	ticket, ok := b.circuit.startTrial(b.settings.TrialTimeout)
	if !ok {
		return Pass{}, ErrTrialsTaken
	}
	b.scheduleLocked()
	return Pass{b, ticket}, nil
}

// Close ends the breaker of an instance that is no longer listed. The state stays as it
// is, and nothing is counted from then on. When Close returns, no timer and no OnChange
// runs or will run. It waits for them, so the caller must not hold a lock that OnChange
// takes. It may be called twice.
func (b *Breaker) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.word.Store((b.word.Load() | endedBit) &^ failedBit)
	if c := b.circuit; c != nil {
		c.end()
	}
}
