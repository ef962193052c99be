package table

import (
	"sync/atomic"
	"time"
)

// Outcome is what the end of a call says of its instance.
type Outcome uint8

// The outcomes, see those of package selector.
const (
	Success Outcome = iota
	Answer
	Backpressure
	Fault
	Canceled
	Local
	NumOutcomes

	// What is counted beside the outcomes.
	Broken    = NumOutcomes     // a Fault after the instance had answered, which is a Success too
	Forgotten = NumOutcomes + 1 // given up, see [Node.GiveUp]
	NumCounts = NumOutcomes + 2
)

// Bounds are the upper bounds of the buckets that durations are counted in; the last bucket
// has none. They are whole microseconds.
var Bounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Histogram counts durations.
type Histogram [len(Bounds) + 1]struct{ count, sum atomic.Uint64 }

func (h *Histogram) add(d time.Duration) {
	i := 0
	for i < len(Bounds) && d > Bounds[i] {
		i++
	}
	h[i].count.Add(1)
	h[i].sum.Add(uint64(d))
}

// Load returns how many durations are in a bucket, and their sum.
func (h *Histogram) Load(bucket int) (count uint64, sum time.Duration) {
	return h[bucket].count.Load(), time.Duration(h[bucket].sum.Load())
}
