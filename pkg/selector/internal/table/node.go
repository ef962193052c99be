package table

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Node is what this caller has learned about one incarnation of an instance. It
// lives as long as that is listed, and is safe for concurrent use. It is one cache
// line.
type Node struct {
	// calls counts the calls in flight in its low bits, and all picks ever above
	// them: one atomic operation for both.
	calls atomic.Uint64
	// cost is the moving average of the durations of calls, negative if the
	// last one failed, and the time of its last change, see [packCost].
	cost     atomic.Uint64
	Breaker  *breaker.Breaker
	Instance atomic.Pointer[events.Instance]
	scale    atomic.Uint32 // a float32: DefaultWeight / weight
	Home     uint8         // circle seen from the selector's own place
	beat     atomic.Uint64 // the score of its last beat and when that came, see [packCost]; for LoadAware

	*Shared
	Path *latency.Path
}

// Close ends the breaker and the path. The caller holds no lock: hooks may run.
func (n *Node) Close() {
	n.Breaker.Close()
	n.Path.Close()
}

const (
	inFlightBits = 20 // a million calls at once
	inFlightMask = 1<<inFlightBits - 1
	onePick      = 1<<inFlightBits | 1
)

// queue is the calls in flight if one more is added, by weight.
func (n *Node) queue() float32 {
	return float32(n.InFlight()+1) * math.Float32frombits(n.scale.Load())
}

func (n *Node) setWeight(weight int) {
	n.scale.Store(math.Float32bits(events.DefaultWeight / float32(max(1, weight))))
}

// Begin counts a pick, and a call in flight until End.
func (n *Node) Begin() { n.calls.Add(onePick) }

// End ends a call in flight.
func (n *Node) End() { n.calls.Add(^uint64(0)) }

// InFlight is the number of calls in flight.
func (n *Node) InFlight() uint64 { return n.calls.Load() & inFlightMask }

// Picks is the number of picks ever.
func (n *Node) Picks() uint64 { return n.calls.Load() >> inFlightBits }

// distance is measured from the selector's own place.
func (n *Node) distance() latency.Estimate { return n.Path.Estimate(n.Assumed[n.Home]) }

// The average of durations moves toward each sample by at least minWeight, so that a
// busy instance is known after some 30 calls, and by as much as has decayed since the
// sample before, so that a quiet instance is not judged by its past. An average that is
// not renewed decays, so an instance that was slow is tried again: after 7 s if it was
// twice as slow, after 46 s if it was a hundred times as slow. (Finagle's and Linkerd's
// balancers keep such an average with the same decay, for the same reasons.)
//
// That is too long where calls are many: one slow call, perhaps the first, must not
// keep an instance from its share. So an instance that has been idle for trustedFor
// while its peers are busy gets one call, and the duration of that call replaces its
// average. A failure says little about how long calls take; it is forgotten after
// trustedFor in any case. So an instance that hung is called again seconds after it
// is back, though its last calls took very long.
const (
	decayAfter   = int32(decay / tick / 16) // not computed for busy instances
	minWeight    = 1.0 / 32
	failWeight   = 1.0 / 4
	failPenalty  = 4 // a failure counts as a call that took this many times longer
	leastPenalty = float32(10 * time.Millisecond)
	mostPenalty  = float32(5 * time.Second)
	trustedTicks = int32(trustedFor / tick)
	busyTicks    = int32(busyGap / tick)
)

// packCost packs a duration in nanoseconds, as a float32, with the time of its
// last change in ticks of the selector's clock, which may wrap.
func packCost(ns float32, at uint32) uint64 {
	return uint64(math.Float32bits(ns))<<32 | uint64(at)
}

func unpackCost(c uint64) (ns float32, at uint32) {
	return math.Float32frombits(uint32(c >> 32)), uint32(c)
}

// durations are the expected durations of a call to each of two nodes, in
// nanoseconds. Both are 0 if they cannot be compared: no call of one has ended yet,
// its last one failed and is long ago, or its average is old while the other is busy.
func durations(a, b *Node, now uint32) (da, db float32) {
	ca, cb := a.cost.Load(), b.cost.Load()
	da, ata := unpackCost(ca)
	db, atb := unpackCost(cb)
	if da > 0 && db > 0 && now-ata <= uint32(decayAfter) && now-atb <= uint32(decayAfter) {
		return da, db // nearly always
	}
	ia, ib := int32(now-ata), int32(now-atb)
	if max(ia, ib) > trustedTicks && min(ia, ib) <= busyTicks {
		return 0, 0
	}
	if da, db = expected(da, ia), expected(db, ib); da == 0 || db == 0 {
		return 0, 0
	}
	return da, db
}

// expected is the duration that a cost stands for which has not changed for that many
// ticks.
func expected(ns float32, idle int32) float32 {
	if ns < 0 {
		if idle > trustedTicks {
			return 0
		}
		ns = -ns
	}
	if idle > decayAfter {
		ns *= decayed(idle)
	}
	return ns
}

// Average is the moving average of the durations of calls.
func (n *Node) Average() time.Duration {
	ns, _ := unpackCost(n.cost.Load())
	return time.Duration(math.Abs(float64(ns)))
}

// decayed is the part of a cost that is left after so many ticks.
func decayed(idle int32) float32 { return float32(math.Exp(-float64(idle) / float64(decay/tick))) }

// Learn adds the duration of a call to the average. Of two calls that end at the same
// instant one sample may be lost.
func (n *Node) Learn(took time.Duration, failed bool, now uint32) {
	ns, at := unpackCost(n.cost.Load())
	idle := int32(now - at)
	if ns < 0 {
		ns = -ns
	}
	sample := float32(max(took, 1))
	weight := float32(minWeight)
	sign := float32(1)
	if failed {
		// A fast failure must not look like a fast instance.
		sample = max(sample, min(max(failPenalty*ns, leastPenalty), mostPenalty))
		weight, sign = failWeight, -1
	}
	switch {
	case ns == 0, sign > 0 && idle > trustedTicks:
		weight = 1
	case idle > decayAfter/2: // before, it is less than minWeight
		weight = max(weight, 1-decayed(idle))
	}
	n.cost.Store(packCost(sign*(ns+(sample-ns)*weight), now))
}
