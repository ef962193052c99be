package bulkhead

import (
	"math"
	"time"
)

// Limit is how many calls may be in flight to one instance. It follows the gradient: how
// much longer calls take than without load. (Netflix's concurrency-limits, Gradient2Limit:
// the limit times the gradient, and some more for a short queue. As in Envoy's adaptive
// concurrency filter the gradient is against the duration without load, not against a long
// average, which would follow an overload that lasts.)
type Limit struct {
	limit   float64
	sum     Sample // since the limit was last set
	pressed bool   // since then the limit mattered
}

// Sample is what was counted of an instance since the last look.
type Sample struct {
	Ended    uint64        // calls
	Rejects  uint64        // of them, those that asked for fewer calls
	Measured uint64        // successes whose duration is known; a part of them is enough
	Busy     time.Duration // the sum of those durations
	InFlight int           // now
	Full     bool          // a call was not sent because the instance was full
}

const (
	// Least is the least limit: so few calls at a time are no overload, and with fewer the
	// limit would not find back.
	Least = 4
	// First is the limit of an instance of which nothing is known. It is small, so that what
	// calls take without load is seen first.
	First = 8
	// Most is the greatest limit unless another one is stated.
	Most = 1000

	tolerance   = 1.5              // times the duration without load that calls may take
	leastExcess = time.Millisecond // and so much longer, however short they are
	calm        = 1.2              // with less the limit grows by a quarter with each look
	calmExcess  = leastExcess / 4
	gradientMin = 0.5
	smoothing   = 0.5  // of a new limit; it waits for the calls that were begun by the last one
	fewMeasured = 3    // durations that count
	rejectMany  = 0.05 // of the calls: the limit is too great whatever they take
	rejectFalls = 0.8
)

// NewLimit returns a limit for an instance that has so many calls in flight.
func NewLimit(inFlight int) *Limit { return &Limit{limit: float64(max(First, inFlight))} }

// Look takes in a sample, and returns the limit, at most most. unloaded is how long calls
// take without load and without the way; 0: not known, then the limit stays. way is the
// round trip.
func (l *Limit) Look(s Sample, unloaded, way time.Duration, most int) int {
	l.sum.Ended += s.Ended
	l.sum.Rejects += s.Rejects
	l.sum.Measured += s.Measured
	l.sum.Busy += s.Busy
	l.pressed = l.pressed || s.Full || 2*float64(s.InFlight) >= l.limit
	if float64(l.sum.Ended) >= l.limit && (l.sum.Measured >= fewMeasured || l.sum.Rejects > 0) {
		if l.pressed {
			l.move(unloaded, way)
		}
		l.sum, l.pressed = Sample{}, false
	}
	l.limit = min(max(l.limit, Least), float64(most))
	return int(l.limit)
}

// move moves the limit. The calls that were counted are at least as many as may be in
// flight, so most of them began under the limit that holds.
func (l *Limit) move(unloaded, way time.Duration) {
	gradient, more := 1.0, 0.0
	if l.sum.Measured >= fewMeasured && unloaded > 0 {
		took := l.sum.Busy / time.Duration(l.sum.Measured)
		gradient = min(1, max(gradientMin, float64(longer(unloaded, tolerance, leastExcess)+way)/float64(max(1, took))))
		more = max(Least, math.Sqrt(l.limit))
		if took <= longer(unloaded, calm, calmExcess)+way {
			more = max(more, l.limit/2)
		}
	}
	if float64(l.sum.Rejects) > rejectMany*float64(l.sum.Ended) {
		gradient, more = min(gradient, rejectFalls), 0
	}
	l.limit += smoothing * (l.limit*gradient + more - l.limit)
}

func longer(d time.Duration, factor float64, least time.Duration) time.Duration {
	return max(time.Duration(factor*float64(d)), d+least)
}
