package breaker

import (
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrOpen means that the instance failed lately, or asked to be left alone.
	ErrOpen = errors.New("breaker: open")
	// ErrTrialsTaken means that as many calls as allowed are already trying whether
	// the instance works again.
	ErrTrialsTaken = errors.New("breaker: half-open and all trials are taken")
	// ErrSlow is for [Pass.Done]: the call succeeded, but took far too long. What is too
	// long is the caller's decision. It is a failure for [Settings.FailureRatio] and for
	// a trial, but ends a row of failures, as a success does.
	ErrSlow = errors.New("breaker: far too slow")
)

// Key names what a breaker is for. An instance that was restarted has another
// incarnation, and so a breaker without a past.
type Key struct {
	Service, Instance, Incarnation string
}

// Settings are when a breaker opens and closes. The zero Settings are ready to use.
//
// A closed breaker opens after Failures calls in a row that failed, or when FailureRatio
// of the calls of a Window failed, or at once when a connection is refused.
type Settings struct {
	// Failures in a row that open a closed breaker, however long ago the first of them
	// was. Default 5.
	Failures int
	// FailureRatio opens a closed breaker when that fraction of the calls in a Window
	// fails, and there are at least MinCalls. Calls count from the first failure in the
	// window on. From 0 to 1: 1 means all calls. Default 0.5; negative: none.
	FailureRatio float64
	// MinCalls is the number of calls in a Window that FailureRatio needs. Default 20.
	MinCalls int
	// Window is the time that FailureRatio looks back. It moves on in steps of a tenth.
	// Default 10s.
	Window time.Duration
	// OpenFor is how long the breaker stays open before it is half-open. Each time, it is
	// up to a fifth shorter or longer at random, so that the trials of many callers do
	// not meet. Each failed trial doubles it, until the breaker has closed. Default 5s.
	OpenFor time.Duration
	// MaxOpenFor is what OpenFor grows to, before the random part, and the longest time
	// that [Pass.Reject] can ask for. Default 60s; never less than OpenFor, and as much
	// as OpenFor to double nothing.
	MaxOpenFor time.Duration
	// Trials is how many calls a half-open breaker lets through. It closes
	// when all of them succeed and opens when one fails. Default 1.
	Trials int
	// TrialTimeout is when a trial that was not reported gives its slot back, as if it
	// had been canceled. Default 10s.
	TrialTimeout time.Duration
	// OnChange is called after every change of state, one call at a time and in order,
	// with no lock held, on the goroutine that made the change or on that of a timer.
	// It may call all methods but Close, which waits for it. Calls of the
	// breaker's methods do not wait for it.
	OnChange func(k Key, from, to State)
}

// longest is more than a century, and can be doubled.
const longest time.Duration = math.MaxInt64 / 2

func (s Settings) withDefaults() Settings {
	if s.Failures <= 0 {
		s.Failures = 5
	}
	if s.FailureRatio == 0 {
		s.FailureRatio = 0.5
	}
	s.FailureRatio = min(s.FailureRatio, 1)
	if s.MinCalls <= 0 {
		s.MinCalls = 20
	}
	if s.Window <= 0 {
		s.Window = 10 * time.Second
	}
	s.Window = min(s.Window, longest)
	if s.OpenFor <= 0 {
		s.OpenFor = 5 * time.Second
	}
	if s.MaxOpenFor <= 0 {
		s.MaxOpenFor = time.Minute
	}
	s.OpenFor = min(s.OpenFor, longest)
	s.MaxOpenFor = max(s.OpenFor, min(s.MaxOpenFor, longest))
	if s.Trials <= 0 {
		s.Trials = 1
	}
	if s.TrialTimeout <= 0 {
		s.TrialTimeout = 10 * time.Second
	}
	return s
}

// Breaker is the circuit to one incarnation of an instance. Its methods are safe for
// concurrent use. While it is closed and no call failed within a window, no method locks,
// allocates or writes to it.
type Breaker struct {
	// word is the state, the flags and the generation (see stateBits). It is stored
	// with mu held, and loaded without.
	word atomic.Uint64

	key Key

	mu       sync.Mutex
	settings *Settings // shared, as they were given
	circuit  *circuit  // nil until the first failure
}

// New returns a closed Breaker for k. It has no timer and costs one small allocation
// until a call fails. Breakers share s, so it must not change any more. Nil stands for the
// zero Settings.
func New(k Key, s *Settings) *Breaker {
	return &Breaker{key: k, settings: s}
}

// Set replaces the settings, but for OnChange. The state stays, and how long it lasts; the row
// of failures too. A window of another length, or one that no ratio needed before, begins
// anew, when the breaker is next closed.
func (b *Breaker) Set(s *Settings) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings = s
	if b.circuit != nil {
		b.circuit.set(b, s)
	}
}

// State is what the breaker does with the next call. It is one atomic load: an open
// breaker turns half-open by itself.
func (b *Breaker) State() State { return stateOf(b.word.Load()) }

// Opened returns when and why an open breaker opened. For a breaker that is not open it
// returns the zero Opening.
func (b *Breaker) Opened() Opening {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.State() != Open {
		return Opening{}
	}
	return b.circuit.opened
}

// Allow returns a pass if the instance may be called now. The end of that call must be
// reported with [Pass.Done] or [Pass.Reject]. The error is [ErrOpen] or [ErrTrialsTaken],
// not wrapped.
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
	ticket, ok := b.circuit.startTrial()
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
