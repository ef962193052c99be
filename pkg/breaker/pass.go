package breaker

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// Pass is the permission for one call, given by [Breaker.Allow].
type Pass struct {
	breaker *Breaker
	// ticket is, for a call through a closed breaker, its word at that time
	// without the failedBit; for a trial, see circuit.startTrial.
	ticket uint64
}

// Done reports how the call ended: nil is a success, an error that wraps
// [context.Canceled] is not counted, any other error is a failure, and one that is
// [Refused] opens the breaker at once. An error that wraps [ErrSlow] is a success that
// took too long. Either Done or [Pass.Reject] must be called, exactly once; for a trial,
// further calls do nothing. A call that began before the last change of state is not
// counted. A zero Pass does nothing.
func (p Pass) Done(err error) {
	if err == nil && p.breaker != nil && p.breaker.word.Load() == p.ticket {
		return // a success, and no failure counts
	}
	p.report(err)
}

func (p Pass) report(err error) {
	// The methods of the error run here, before any lock is taken.
	p.end(outcomeOf(err), 0)
}

// Reject is Done for a call that the instance declined: it works, and asked to be left
// alone for after, as Retry-After of HTTP does. The call is neither a failure nor a
// success. The breaker opens for exactly that time, [Settings.MaxOpenFor] at most, and is
// half-open then. If after is not positive, nothing is counted and nothing opens.
func (p Pass) Reject(after time.Duration) {
	if after > 0 {
		p.end(rejected, after)
	} else {
		p.end(excluded, 0)
	}
}

func (p Pass) end(o outcome, after time.Duration) {
	b := p.breaker
	switch {
	case b == nil:
	case p.ticket&trialBit != 0:
		b.endTrial(p.ticket, o, after)
	case b.word.Load()&^failedBit == p.ticket && o != excluded:
		b.endCall(p.ticket, o, after)
	}
}

// outcome is how a circuit counts the end of a call.
type outcome uint8

const (
	success outcome = iota
	slow
	failure
	refused
	rejected
	excluded // cancelled, or a trial not reported in time
)

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return success
	case errors.Is(err, context.Canceled):
		return excluded
	case Refused(err):
		return refused
	case errors.Is(err, ErrSlow):
		return slow
	default:
		return failure
	}
}

// wsaConnRefused is the number on Windows; no other system uses it.
const wsaConnRefused = syscall.Errno(10061)

// Refused reports whether err means that no process listens at the address of the
// instance. Then there is no need to count more failures.
func Refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaConnRefused)
}

// endCall counts the end of a call that a closed breaker allowed.
func (b *Breaker) endCall(ticket uint64, o outcome, after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	word := b.word.Load()
	if word&^failedBit != ticket || word&endedBit != 0 {
		return
	}
	if o == success && word&failedBit == 0 {
		return // another success was counted before
	}
	if b.circuit == nil {
		b.circuit = newCircuit(b)
	}
	failed := b.circuit.count(o, after)
	switch {
	case b.word.Load() != word: // it opened
		b.scheduleLocked()
		b.notifyLocked()
	case failed != (word&failedBit != 0):
		b.word.Store(word ^ failedBit)
	}
}

// endTrial counts the end of a trial, unless that has been done already.
func (b *Breaker) endTrial(ticket uint64, o outcome, after time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.circuit.endTrial(ticket, o, after) {
		b.scheduleLocked()
		b.notifyLocked()
	}
}
