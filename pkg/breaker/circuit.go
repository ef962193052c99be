package breaker

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// circuit is the part of a [Breaker] that only a failing instance needs. Breaker.mu
// guards all of it. gobreaker is called with that lock held, so the order of locks is
// always the same.
type circuit struct {
	gobreaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	outcome   outcome // of the call that is being counted; gobreaker reads it instead of an error

	trials    []trial // not reported yet, oldest first
	lastTrial uint64

	openUntil time.Time
	opened    time.Time
	refused   bool        // it opened because the connection was refused
	timer     *time.Timer // one for both openUntil and the oldest trial's deadline
	firing    int         // calls of onTimer that are due or running

	changes   []change  // not reported to OnChange yet
	notifying bool      // a goroutine is calling OnChange, and will report the rest
	idle      sync.Cond // firing or notifying has fallen
}

type trial struct {
	ticket   uint64
	done     func(error)
	deadline time.Time
}

type change struct{ from, to State }

func newCircuit(b *Breaker) *circuit {
	c := &circuit{}
	c.idle.L = &b.mu
	c.gobreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(min(int64(b.settings.Trials), math.MaxUint32)),
		Timeout:     b.settings.OpenFor,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return c.outcome == refused || int64(n.ConsecutiveFailures) >= int64(b.settings.Failures)
		},
		IsExcluded:   func(error) bool { return c.outcome == excluded },
		IsSuccessful: func(error) bool { return c.outcome == success },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			b.changeLocked(stateFrom(from), stateFrom(to))
		},
	})
	return c
}

func stateFrom(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	default:
		return Closed
	}
}

// count reports to gobreaker a call that was allowed without it.
func (c *circuit) count(o outcome) {
	if done, err := c.gobreaker.Allow(); err == nil {
		c.outcome = o
		done(nil)
	}
}

// startTrial takes a slot of the half-open circuit, if there is one. The ticket is a
// number of its own, marked so that it equals no word.
func (c *circuit) startTrial(timeout time.Duration) (ticket uint64, ok bool) {
	done, err := c.gobreaker.Allow()
	if err != nil {
		return 0, false
	}
	c.lastTrial++
	ticket = c.lastTrial*generation | trialBit
	c.trials = append(c.trials, trial{ticket, done, time.Now().Add(timeout)})
	return ticket, true
}

// endTrial returns false for a trial that was reported before, gave its slot back, or
// began before the last change of state.
func (c *circuit) endTrial(ticket uint64, o outcome) bool {
	i := slices.IndexFunc(c.trials, func(t trial) bool { return t.ticket == ticket })
	if i < 0 {
		return false
	}
	done := c.trials[i].done
	c.trials = slices.Delete(c.trials, i, i+1)
	c.outcome = o
	done(nil)
	return true
}

// changeLocked is called by gobreaker when its state changes.
func (b *Breaker) changeLocked(from, to State) {
	c := b.circuit
	c.trials = nil // of the state that has ended
	if to == Open {
		// gobreaker stays open until strictly after its expiry, which it has just
		// computed.
		c.opened = time.Now()
		c.openUntil = c.opened.Add(b.settings.OpenFor + 1)
		c.refused = c.outcome == refused
	}
	next := b.word.Load()/generation + 1
	b.word.Store(next*generation | uint64(to))
	if b.settings.OnChange != nil {
		c.changes = append(c.changes, change{from, to})
	}
}

// scheduleLocked sets the timer for what is due next, if anything is.
func (b *Breaker) scheduleLocked() {
	c := b.circuit
	var due time.Time
	switch {
	case b.State() == Open:
		due = c.openUntil
	case len(c.trials) > 0:
		due = c.trials[0].deadline
	default:
		c.stopTimer()
		return
	}
	switch {
	case c.timer == nil:
		c.timer = time.AfterFunc(time.Until(due), b.onTimer)
		c.firing++
	case !c.timer.Reset(time.Until(due)):
		c.firing++
	}
}

func (c *circuit) stopTimer() {
	if c.timer != nil && c.timer.Stop() {
		c.firing--
	}
}

// onTimer does what is due. That is nothing if the timer was set anew meanwhile.
func (b *Breaker) onTimer() {
	b.mu.Lock()
	c := b.circuit
	defer func() {
		c.firing--
		c.idle.Broadcast()
		b.mu.Unlock()
	}()
	if b.word.Load()&endedBit == 0 {
		if b.State() == Open {
			c.gobreaker.State() // turns half-open when its time has come
		}
		now := time.Now()
		for len(c.trials) > 0 && !c.trials[0].deadline.After(now) {
			c.endTrial(c.trials[0].ticket, excluded)
		}
		b.scheduleLocked()
		b.notifyLocked()
	}
}

// notifyLocked calls OnChange for every change that was not reported yet, without the
// lock. Changes that are made meanwhile, also by OnChange itself, are reported by the
// same goroutine afterwards.
func (b *Breaker) notifyLocked() {
	c := b.circuit
	for !c.notifying && len(c.changes) > 0 {
		next := c.changes[0]
		c.changes = c.changes[1:]
		b.notifyOneLocked(next)
	}
}

func (b *Breaker) notifyOneLocked(ch change) {
	c := b.circuit
	c.notifying = true
	b.mu.Unlock()
	defer func() { // also when OnChange panics
		b.mu.Lock()
		c.notifying = false
		c.idle.Broadcast()
	}()
	b.settings.OnChange(b.key, ch.from, ch.to)
}

// end stops the timer, and waits for calls of onTimer and OnChange.
func (c *circuit) end() {
	c.trials, c.changes = nil, nil
	c.stopTimer()
	for c.firing > 0 || c.notifying {
		c.idle.Wait()
	}
}
