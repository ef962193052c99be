package breaker

import "time"

// State is what a [Breaker] does with the next call.
type State int32

// The states of a breaker. The zero State is Closed.
const (
	// Closed allows every call.
	Closed State = iota
	// HalfOpen allows [Settings.Trials] calls and waits for their end.
	HalfOpen
	// Open allows none.
	Open
)

// String is closed, half-open or open.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	case Open:
		return "open"
	default:
		return "unknown"
	}
}

// Opening is when and why a [Breaker] opened.
type Opening struct {
	At    time.Time
	Until time.Time // it is half-open from then on
	Why   Reason
}

// Reason is why a [Breaker] opened.
type Reason uint8

// The reasons for which a breaker opens.
const (
	// ByFailures means that calls in a row failed, or a trial.
	ByFailures Reason = iota + 1
	// ByRatio means that too many calls failed or were too slow, though not in a row.
	ByRatio
	// ByRefusal means that the connection was refused: nothing listens there.
	ByRefusal
	// ByRequest means that the instance asked for it, see [Pass.Reject]. It works.
	ByRequest
)

// The bits of Breaker.word. Above them is the generation, a number that grows with every
// change of state: it shows that a call began before a change.
const (
	stateBits  uint64 = 1<<2 - 1
	failedBit  uint64 = 1 << 2 // a failure that still counts: successes must be counted too
	endedBit   uint64 = 1 << 3 // after Close
	trialBit   uint64 = 1 << 4 // never in a word: only in a trial's ticket
	generation uint64 = 1 << 5 // one generation
)

func stateOf(word uint64) State { return State(word & stateBits) }
