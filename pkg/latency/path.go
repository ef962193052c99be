package latency

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// Path is the way to one instance: the place where its distance is known. Make
// one with [Prober.Path], and keep it as long as the instance lives, for what
// was learned is in it. All methods are safe for concurrent use.
type Path struct {
	prober  *Prober
	address string

	measured atomic.Int64 // nanoseconds, 0 when no sample is fresh
	failures atomic.Int64 // probes failed in a row

	// What follows is guarded by prober.mu.

	samples []sample      // oldest first, at most Window, all fresh
	told    time.Duration // measured, when OnChange was last due
	groups  []membership
	slots   int                // how often it is among the probed of a group
	next    time.Duration      // when it may be probed again
	cancel  context.CancelFunc // ends the probe in flight, else nil
	proven  bool               // the last probe was answered
	probe   entry              // in prober.proven or prober.unproven
	expiry  entry              // in prober.expiries while there are samples
}

// sample is one measurement.
type sample struct {
	rtt time.Duration
	at  time.Duration // on the prober's clock
}

// membership is a path's part in one group.
type membership struct {
	group *group
	n     int // how often the group lists the path
}

// Measured is the median of the last Window samples that are fresh, false when
// none is. It is one atomic load.
func (pa *Path) Measured() (time.Duration, bool) {
	d := time.Duration(pa.measured.Load())
	return d, d > 0
}

// Estimate is the distance by the best source that knows one, and assumed (see
// [Assumed]) when none does. It neither locks nor allocates.
func (pa *Path) Estimate(assumed time.Duration) Estimate {
	if d, ok := pa.Measured(); ok {
		return Estimate{Distance: d, Source: SourceMeasured}
	}
	return Estimate{Distance: assumed, Source: SourceAssumed}
}

// Failures is the number of probes that failed since the last that succeeded.
// One may be a lost packet; it is tried again after a second.
func (pa *Path) Failures() int { return int(pa.failures.Load()) }

// Observe adds a sample that somebody else took, for instance while opening a
// connection for a call. The clock must have started before the dial, and a
// failure is no sample. Samples <= 0 or > 10s are rejected.
func (pa *Path) Observe(rtt time.Duration) {
	p := pa.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		pa.addLocked(rtt, p.now())
	}
}

// addLocked adds a sample.
func (pa *Path) addLocked(rtt, now time.Duration) {
	if rtt <= 0 || rtt > maxRTT {
		return
	}
	p := pa.prober
	if len(pa.samples) == p.o.Window {
		pa.samples = slices.Delete(pa.samples, 0, 1)
	}
	pa.samples = append(pa.samples, sample{rtt, now})
	pa.refreshLocked(now)
}

// refreshLocked drops what is not fresh any more, and publishes the median of
// the rest.
func (pa *Path) refreshLocked(now time.Duration) {
	p := pa.prober
	old := 0
	for old < len(pa.samples) && now-pa.samples[old].at >= p.o.Fresh {
		old++
	}
	pa.samples = slices.Delete(pa.samples, 0, old)

	m := median(pa.samples)
	pa.measured.Store(int64(m))
	if moved(pa.told, m) {
		pa.told = m
		p.changedLocked(pa)
	}

	if len(pa.samples) == 0 {
		pa.expiry.remove()
		return
	}
	// When samples come faster than they expire, the entry may stay where it
	// is, too early: it is put right when it is due.
	if pa.expiry.in == nil || pa.expiry.due <= now {
		p.queueLocked(&p.expiries, &pa.expiry, pa.samples[0].at+p.o.Fresh)
	}
}

// median is the middle of the round trips, the lower of two, 0 of none.
func median(samples []sample) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	rtts := make([]time.Duration, 0, 16) // on the stack, for any usual Window
	for _, s := range samples {
		rtts = append(rtts, s.rtt)
	}
	slices.Sort(rtts)
	return rtts[(len(rtts)-1)/2]
}

// moved reports whether a change of the measured distance may matter to the
// order of instances. 0 is not measured.
func moved(from, to time.Duration) bool {
	if from == 0 || to == 0 {
		return from != to
	}
	by := (to - from).Abs()
	return by > 200*time.Microsecond && by > from/10
}

// doubtful reports whether a sample is so far from the median that it should
// be confirmed soon.
func doubtful(rtt, median time.Duration) bool {
	return median > 0 && (rtt-median).Abs() > time.Millisecond &&
		(rtt > 2*median || rtt < median/2)
}
