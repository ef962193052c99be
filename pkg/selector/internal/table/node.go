package table

import (
	"cmp"
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Node is what this caller has learned about one incarnation of an instance. It
// lives as long as that is listed, and is safe for concurrent use. A pick reads and
// writes its first cache line, the end of a call also the second one.
type Node struct {
	// calls counts the calls in flight in its low bits, and all picks ever above
	// them: one atomic operation for both.
	calls atomic.Uint64
	// cost is the moving average of the durations of calls, negative if the
	// last one failed, and the time of its last change, see [packCost].
	cost     atomic.Uint64
	Breaker  *breaker.Breaker
	Instance atomic.Pointer[events.Instance]
	holds    atomic.Bool   // held is not 0, or the node pauses
	home     atomic.Uint32 // circle seen from the selector's own place
	beat     atomic.Uint64 // the score of its last beat and when that came, see [packCost]; for LoadAware

	*Shared
	Path *latency.Path

	held     atomic.Uint64 // calls that ended too soon to count, see [Node.hold]
	measured atomic.Uint64 // successes whose duration is known, and the sum of those, see [Node.Measured]
	answers  atomic.Uint64 // other answers, and those of them that ask for fewer calls in the upper half
	earlier  atomic.Int64  // calls in flight that began in an earlier period, see [Node.GiveUp]
	pause    atomic.Uint32 // until when other nodes are called, see [Node.Pausing]
	inRow    atomic.Uint32 // calls that ended badly without a success between, see [Node.row]
	lastBad  atomic.Uint64 // cost after the last of them
	lived    atomic.Uint32 // when it last answered the question whether it lives, in ticks; 0: never
	silent   atomic.Uint32 // calls that ended without an answer
	_        [8]byte       // so that an allocated node begins with a cache line
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

// queue is the load of an instance: the calls in flight, one more if it is added, and
// the calls that are held against it.
func (n *Node) queue(now uint32) float32 {
	q := float32(n.InFlight() + 1)
	if n.holds.Load() {
		q += n.heldCalls(now)
		if n.pausing(now) {
			q += pauseCalls
		}
	}
	return q
}

// Pausing reports whether the instance has just asked for fewer calls, so that others are
// called where there are any.
func (n *Node) Pausing() bool { return n.holds.Load() && n.pausing(Ticks(n.Now())) }

func (n *Node) pausing(now uint32) bool { return int32(n.pause.Load()-now) > 0 }

// rest lets the node pause, for some of the usual time of a call: twice as long after each
// of the rejects that follow one another without a success.
func (n *Node) rest(usual float32, now uint32) {
	most := max(float32(mostPause), leastPause*usual)
	d := min(leastPause*max(usual, float32(leastPauseOf))*float32(uint64(1)<<min(n.row()-1, 20)), most)
	n.pause.Store(now + uint32(d/float32(tick)) + 1)
	n.holds.Store(true)
}

// row counts one more call that ended badly, and returns how many did so without a success
// between: a success changes the cost. [Node.noted] is called when the cost has been set.
func (n *Node) row() uint32 {
	if n.cost.Load() != n.lastBad.Load() {
		n.inRow.Store(0)
	}
	return n.inRow.Add(1)
}

func (n *Node) noted() { n.lastBad.Store(n.cost.Load()) }

// Begin counts a pick, and a call in flight until End.
func (n *Node) Begin() { n.calls.Add(onePick) }

// End ends a call in flight that began at start. One that was ended before, or given up,
// see [Node.GiveUp], does no lasting harm: the count does not fall below 0. It reports
// whether the call counted until now.
func (n *Node) End(start time.Duration) bool {
	if int64(start) < n.PeriodStart.Load() || n.calls.Add(^uint64(0))&inFlightMask == inFlightMask {
		return n.endOdd(start)
	}
	return true
}

// endOdd ends a call that began in an earlier period, or takes back that one was ended
// twice.
func (n *Node) endOdd(start time.Duration) (counted bool) {
	switch {
	case int64(start) >= n.PeriodStart.Load():
		n.calls.Add(1)
	case n.earlier.Add(-1) < 0: // it was given up
		n.earlier.Add(1)
	case n.calls.Add(^uint64(0))&inFlightMask == inFlightMask:
		n.calls.Add(1)
	default:
		return true
	}
	return false
}

// GiveUp is called at the end of each period. Calls that began before the period and
// have not ended are no load any more: their end was forgotten, or they are streams. It
// returns how many there are.
func (n *Node) GiveUp() (forgotten int64) {
	for left := n.earlier.Swap(0); left > 0 && n.InFlight() > 0; left-- {
		n.calls.Add(^uint64(0))
		forgotten++
	}
	n.earlier.Store(int64(n.InFlight()))
	return forgotten
}

// InFlight is the number of calls in flight.
func (n *Node) InFlight() uint64 {
	if q := n.calls.Load() & inFlightMask; q != inFlightMask { // else a call was ended twice just now
		return q
	}
	return 0
}

// Ended is the number of calls ever that have ended.
func (n *Node) Ended() uint64 {
	calls := n.calls.Load()
	return calls>>inFlightBits - calls&inFlightMask
}

// Silent counts a call that is about to end without an answer.
func (n *Node) Silent() { n.silent.Add(1) }

// Replies is the number of calls ever that the instance has answered. It wraps.
func (n *Node) Replies() uint32 { return uint32(n.Ended()) - n.silent.Load() }

// TimeLimit is what a call may take before the node seems to hang: at least least, some
// times the mean duration of successes, and some times the longest one lately, unless the
// last call to the node failed; and the mean. Both are 0 while none is known.
func (n *Node) TimeLimit(least time.Duration, typical, slowest float64) (limit, usual time.Duration) {
	ns, _ := unpackCost(n.cost.Load())
	usual = time.Duration(cmp.Or(n.typical(), max(0, ns)))
	if usual == 0 {
		return 0, 0
	}
	limit = max(least, time.Duration(typical*float64(usual)))
	if ns >= 0 {
		limit = max(limit, time.Duration(slowest*float64(n.Slowest.Load())))
	}
	return limit, usual
}

// Failed reports whether the last call failed.
func (n *Node) Failed() bool {
	ns, _ := unpackCost(n.cost.Load())
	return ns < 0
}

// Asks asks the instance whether it lives, and reports whether it said so.
func (n *Node) Asks(ctx context.Context) bool {
	if !n.Lives(ctx, n.Instance.Load()) {
		return false
	}
	n.lived.Store(max(1, Ticks(n.Now())))
	return true
}

// LivedWithin reports whether the instance has said lately that it lives.
func (n *Node) LivedWithin(d time.Duration) bool {
	at := n.lived.Load()
	return at != 0 && time.Duration(Ticks(n.Now())-at)*tick < d
}

// Picks is the number of picks ever.
func (n *Node) Picks() uint64 { return n.calls.Load() >> inFlightBits }

// distance is measured from the selector's own place.
func (n *Node) distance() latency.Estimate {
	assumed := n.Layout().Assumed
	return n.Path.Estimate(assumed[min(int(n.Home()), len(assumed)-1)])
}

// Home is the circle of the node, seen from the selector's own place.
func (n *Node) Home() uint8 { return uint8(n.home.Load()) }

// SetHome sets it: before the node is used, or when the layout is replaced.
func (n *Node) SetHome(circle uint8) { n.home.Store(uint32(circle)) }

// The average of durations moves toward each sample by at least minWeight, so that a
// busy instance is known after some 30 calls, and by as much as has decayed since the
// sample before, so that a quiet instance is not judged by its past. An average that is
// not renewed decays, so an instance that was slow is tried again: after 7 s if it was
// twice as slow, after 46 s if it was a hundred times as slow. (Finagle's and Linkerd's
// balancers keep such an average with the same decay, for the same reasons.)
//
// That is too long where calls are many: one slow call must not keep an instance from
// its share. The first one is often slow, as connections and caches are new, so one
// call alone says nothing: a second one follows, and the shorter one of the two counts.
// Later, an instance that has been idle for trustedFor
// while its peers are busy gets one call, and the duration of that call replaces its
// average. A failure says little about how long calls take; it is forgotten after
// trustedFor in any case. So an instance that hung is called again seconds after it
// is back, though its last calls took very long.
const (
	decayAfter    = int32(decay / tick / 16) // not computed for busy instances
	minWeight     = 1.0 / 32
	fewCalls      = 2 // calls that have ended before the durations of an instance are compared
	failWeight    = 1.0 / 4
	failPenalty   = 4 // a failure counts as a call that took this many times longer
	rejectPenalty = 4 // so does an answer that asks for fewer calls
	// A call that the caller gave up after this many times the usual duration, and not
	// sooner than leastLate, is like one that timed out.
	canceledLate  = 4
	lateInRow     = 5        // so many given up in a row after canceledLate times the usual duration are late though successes took longer
	longInRow     = 20       // and so many after the usual one
	slowFactor    = 10       // a success that took so many times longer than others do, and slowest, is slow
	leastPause    = 2        // times the usual duration that a node pauses after a reject
	pauseCalls    = 16       // calls that a pause counts as
	leastHeld     = 1.0 / 32 // fewer calls are not held against an instance
	measuredBits  = 24
	measuredPart  = 8 // of the successes of an instance that follow one another closely, one in so many is measured for its circle
	measuredTicks = int32(measuredGap / tick)
	trustedTicks  = int32(trustedFor / tick)
	busyTicks     = int32(busyGap / tick)
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
// nanoseconds. A node of which none is known counts as the others of its circle. Both
// are 0 if they cannot be compared: fewer calls than fewCalls have ended, the last one
// failed and is long ago, or its average is old while the other is busy.
func durations(a, b *Node, now uint32) (da, db float32) {
	ca, cb := a.cost.Load(), b.cost.Load()
	da, ata := unpackCost(ca)
	db, atb := unpackCost(cb)
	if da > 0 && db > 0 && now-ata <= uint32(decayAfter) && now-atb <= uint32(decayAfter) {
		if a.Ended() < fewCalls || b.Ended() < fewCalls {
			return 0, 0
		}
		return da, db // nearly always
	}
	ia, ib := int32(now-ata), int32(now-atb)
	if max(ia, ib) > trustedTicks && min(ia, ib) <= busyTicks {
		return 0, 0
	}
	if da, db = cmp.Or(expected(da, a.typical(), ia), a.typical()), cmp.Or(expected(db, b.typical(), ib), b.typical()); da == 0 || db == 0 {
		return 0, 0
	}
	return da, db
}

// expected is the duration that a cost stands for which has not changed for that many
// ticks: it decays to what is usual, not below.
func expected(ns, usual float32, idle int32) float32 {
	if ns < 0 {
		if idle > trustedTicks {
			return 0
		}
		ns = -ns
	}
	if idle > decayAfter {
		ns = max(ns*decayed(idle), min(ns, usual))
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

// typical is the mean duration of the successes in the circle of the node lately, in
// nanoseconds; 0 if there were none.
func (n *Node) typical() float32 {
	typical, home := n.Layout().Typical, int(n.Home())
	if home >= len(typical) {
		return 0
	}
	return float32(typical[home].Load())
}

// Early reports whether a call that timed out after that time says little about the
// instance: calls usually take that long, or not much less.
func (n *Node) Early(took time.Duration) bool {
	ns, _ := unpackCost(n.cost.Load())
	return max(n.typical(), ns) > 0 && !n.late(took, ns)
}

func (n *Node) late(took time.Duration, average float32) bool {
	usual := cmp.Or(n.typical(), max(0, average)) // it is negative after a failure
	if usual == 0 {
		return took >= unknownLate
	}
	if float32(took) < canceledLate*usual || took < leastLate {
		return false
	}
	// After a failure a success that took long is no excuse.
	ns, _ := unpackCost(n.cost.Load())
	return ns < 0 || int64(took) >= n.Slowest.Load()
}

// Succeeded takes in the duration of a success. Of two calls that end at the same instant
// one may be lost.
func (n *Node) Succeeded(took time.Duration, now uint32) {
	ns, at := unpackCost(n.cost.Load())
	idle := int32(now - at)
	sample := float32(max(took, 1))
	if ns > 0 && idle <= decayAfter/2 { // nearly always
		weight := float32(minWeight)
		if sample < ns && n.Ended() <= fewCalls {
			weight = 1
		}
		n.cost.Store(packCost(ns+(sample-ns)*weight, now))
		if idle <= measuredTicks && n.calls.Load()>>inFlightBits%measuredPart != 0 {
			return
		}
	} else {
		n.average(ns, sample, minWeight, 1, idle, now)
	}
	n.measured.Add(uint64(took/time.Microsecond)<<measuredBits | 1)
	if all, home := n.Layout().Durations, int(n.Home()); home < len(all) {
		all[home].add(took)
	}
	n.learnP95(int64(took))
	if took > leastSlowest && int64(took) > n.Slowest.Load() {
		n.Slowest.Store(int64(took))
	}
}

// p95Step is how far a duration moves the estimate of the 95th percentile.
const p95Step = 0.1

// learnP95 moves the estimate up by 19 parts for a longer duration, and down by one for a
// shorter one: it rests where one of twenty is longer. (Robbins and Monro, A Stochastic
// Approximation Method, 1951.)
func (s *Shared) learnP95(took int64) {
	switch q := s.P95.Load(); {
	case q == 0:
		s.P95.Store(2 * max(1, took))
	case took > q:
		s.P95.Store(int64(float64(q)*(1+0.95*p95Step)) + 1)
	default:
		s.P95.Store(int64(float64(q) * (1 - 0.05*p95Step)))
	}
}

// average moves the average of durations to a sample.
func (n *Node) average(ns, sample, weight, sign float32, idle int32, now uint32) {
	if ns < 0 {
		ns = -ns
	}
	switch {
	case ns == 0, sign > 0 && idle > trustedTicks:
		weight = 1
	case idle > decayAfter/2: // before, it is less than minWeight
		weight = max(weight, 1-decayed(idle))
	}
	if weight < 1 {
		sample = ns + (sample-ns)*weight
	}
	n.cost.Store(packCost(sign*sample, now))
}

// Answered reports whether the last call succeeded, and not long ago.
func (n *Node) Answered(now uint32) bool {
	ns, at := unpackCost(n.cost.Load())
	return ns > 0 && int32(now-at) < int32(decay/tick)
}

// Stale reports whether no duration has been learned since a time.
func (n *Node) Stale(since uint32) bool {
	ns, at := unpackCost(n.cost.Load())
	return ns == 0 || int32(since-at) > 0
}

// Learn takes in how a call ended that took so long. It reports whether the call was
// given up so late that this is a failure of the instance.
func (n *Node) Learn(o Outcome, took time.Duration, now uint32) (failed bool) {
	if o == Success {
		n.Succeeded(took, now)
		return false
	}
	ns, at := unpackCost(n.cost.Load())
	idle, known := int32(now-at), max(0, ns)
	if ns < 0 {
		ns = -ns
	}
	sample, weight, sign := float32(max(took, 1)), float32(minWeight), float32(1)
	usual := n.typical()
	switch o {
	case Answer:
		// It may have come quickly because little was done for it, so it does not make
		// an instance look fast.
		n.answers.Add(1)
		n.hold(sample, usual, now)
		if sample = max(sample, ns, usual); usual == 0 && ns == 0 {
			return false // what others take is not known yet
		}
	case Backpressure:
		n.answers.Add(1<<32 | 1)
		n.rest(cmp.Or(usual, ns), now)
		n.hold(sample, rejectPenalty*max(cmp.Or(usual, ns), float32(leastPenalty)/rejectPenalty), now)
		sample, weight, sign = max(sample, penalty(max(ns, usual))), failWeight, -1
		defer n.noted()
	case Fault:
		n.hold(sample, max(ns, usual), now)
		sample, weight, sign = max(sample, penalty(max(ns, usual))), failWeight, -1
	case Canceled:
		failed = n.late(took, known)
		if usual = max(ns, usual); sample <= usual || usual == 0 && !failed {
			n.cut(sample, usual, now)
			return false
		}
		if row := n.row(); !failed && (row >= longInRow || row >= lateInRow && sample >= canceledLate*usual) {
			failed = true // though successes took longer, there are none
		}
		weight = failWeight // it would have taken at least as long as that
		if failed {
			sign = -1
		}
		defer n.noted()
	default:
		n.hold(sample, max(ns, usual), now)
		return false
	}
	n.average(ns, sample, weight, sign, idle, now)
	return failed
}

// cut takes in a call that was given up within the usual time. How long it would have taken is
// not known. But of an instance whose callers are in a hurry only the quickest calls succeed:
// it would look fast and attract calls, so it counts as no faster than usual.
func (n *Node) cut(took, usual float32, now uint32) {
	n.hold(took, usual, now)
	before := n.cost.Load()
	if ns, _ := unpackCost(before); ns > 0 && ns < n.typical() {
		n.cost.Store(packCost(n.typical(), now))
		if n.lastBad.Load() == before {
			n.noted() // it is no success
		}
	}
}

// penalty is the duration that a failed call counts as where that is the usual one.
func penalty(usual float32) float32 {
	return min(max(failPenalty*usual, float32(leastPenalty)), max(float32(mostPenalty), usual))
}

// Slow reports whether a success took so much longer than successes of the circle do that
// it counts against the instance.
func (n *Node) Slow(took time.Duration) bool { return took >= slowest && n.slower(took) }

func (n *Node) slower(took time.Duration) bool {
	usual := n.typical()
	return usual > 0 && float32(took) > slowFactor*usual
}

// hold counts a call that ended too soon as one in flight for as long as it usually
// takes: an instance that fails at once would otherwise be free more often than those
// that work, and attract calls. The count falls by a factor of e in the time that calls
// take, so it is on average that of calls which took so long (Little's law).
func (n *Node) hold(took, usual float32, now uint32) {
	if took >= usual {
		return
	}
	of := n.typical()
	if of == 0 {
		of = usual
	}
	n.held.Store(packCost(n.heldCalls(now)+(usual-took)/of, now))
	n.holds.Store(true)
	if n.Hashes.Load() {
		n.AllHeld.Store(packCost(stillHeld(n.AllHeld.Load(), of, now)+(usual-took)/of, now))
	}
}

// heldCalls is the number of calls that are held against the node.
func (n *Node) heldCalls(now uint32) float32 {
	calls := stillHeld(n.held.Load(), n.typical(), now)
	if calls == 0 && !n.pausing(now) {
		n.holds.Store(false)
	}
	return calls
}

// stillHeld is what is left of a number of calls and the time of its last change.
func stillHeld(held uint64, typical float32, now uint32) float32 {
	calls, at := unpackCost(held)
	if calls == 0 {
		return 0
	}
	if calls *= float32(math.Exp(-float64(max(0, int32(now-at))) * float64(tick) / max(float64(typical), float64(tick)))); calls < leastHeld {
		return 0
	}
	return calls
}

// Measured returns how many successes there were whose duration is known, and the sum of
// those in microseconds. Both wrap.
func (n *Node) Measured() (count, sum uint64) {
	m := n.measured.Load()
	return m & (1<<measuredBits - 1), m >> measuredBits
}

// Answers returns how many answers there were that are no successes, and how many of
// them ask for fewer calls. Both wrap.
func (n *Node) Answers() (count, rejects uint32) {
	a := n.answers.Load()
	return uint32(a), uint32(a >> 32)
}

// Count counts how a call ended. Successes are not counted: they are what is left of the
// picks, and a success must cost nothing more.
func (n *Node) Count(o Outcome, by uint64) {
	counts := n.Layout().Counts
	if i := int(n.Home())*int(NumCounts) + int(o); i < len(counts) {
		counts[i].Add(by)
	}
}

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

// addAll adds what another histogram has counted.
func (h *Histogram) addAll(other *Histogram) {
	for i := range other {
		h[i].count.Add(other[i].count.Load())
		h[i].sum.Add(other[i].sum.Load())
	}
}

// Load returns how many durations are in a bucket, and their sum.
func (h *Histogram) Load(bucket int) (count uint64, sum time.Duration) {
	return h[bucket].count.Load(), time.Duration(h[bucket].sum.Load())
}
