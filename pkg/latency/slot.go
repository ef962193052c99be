package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// The reporters of a zone divide the probes among them without a message. Time is
// cut into slots, PerInterval of them in each period of an instance. A slot
// belongs to the reporter with the greatest hash of (reporter, instance, slot)
// among the live reporters: rendezvous hashing (Thaler and Ravishankar, 1998). So
// the number of probes does not depend on the number of reporters, the reporters
// take turns, and only the slots of a reporter that comes or leaves change owner.
// Clocks that differ cost single measurements, not all of them.

// mix makes a hash of two (the finalizer of SplitMix64; Steele, Lea and Flood,
// 2014).
func mix(a, b uint64) uint64 {
	h := a ^ b*0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// downAfter is how many failures in a row mean that an instance is down.
const downAfter = 3

// leavesToZoneLocked reports whether the zone's slots are enough for a path that
// failed: it is down, and no other reporter has measured it lately either. The
// owners of the slots try it, together as often as a lone caller would; the other
// reporters try it when one of them has measured it.
func (g *Group) leavesToZoneLocked(pa *Path, now time.Duration) bool {
	return pa.failures.Load() >= downAfter && (len(g.live) > 0 || g.pace != awake) &&
		!slices.ContainsFunc(pa.votes, func(v vote) bool { return now-v.at < maxRetryPause })
}

// maxSlots is how many slots are searched for one that this caller owns.
const maxSlots = 128

// slotAfterLocked returns when this caller's next slot for pa begins. If ours is
// false, none of the next maxSlots is this caller's, and at is when to search
// again.
func (g *Group) slotAfterLocked(pa *Path, now time.Duration) (at time.Duration, ours bool) {
	p := g.prober
	period := pa.period
	if pa.failures.Load() >= downAfter {
		period = min(period, max(maxRetryPause, p.o.Interval))
	}
	length := max(period/time.Duration(p.o.PerInterval), time.Millisecond)
	wall := p.epoch + now
	phase := time.Duration(pa.hash % uint64(length))
	first := (wall + phase) / length
	for k := range time.Duration(maxSlots) {
		slot := mix(pa.hash, uint64(first+k))
		at = (first+k)*length - phase - p.epoch + time.Duration(slot%1024)*length*3/4/1024
		if at > now && g.ownsLocked(slot) {
			return at, true
		}
	}
	return at, false
}

// ownsLocked reports whether a slot belongs to this caller. While others report,
// no slot does before they know of this caller: callers that start together would
// all take it.
func (g *Group) ownsLocked(slot uint64) bool {
	if g.listening || !g.published && len(g.live) > 0 {
		return false
	}
	own := mix(g.prober.hash, slot)
	for _, r := range g.live {
		if mix(r.hash, slot) > own {
			return false
		}
	}
	return true
}

// aheadLocked is how many of the other reporters come before this caller for a
// slot, counting up to most.
func (g *Group) aheadLocked(slot, except uint64, most int) int {
	own, n := mix(g.prober.hash, slot), 0
	for _, r := range g.live {
		if r.hash != except && mix(r.hash, slot) > own {
			if n++; n >= most {
				break
			}
		}
	}
	return n
}

// suppressionDelay is a random delay up to limit after which few of very many
// callers act before the others hear of it: its density grows exponentially
// (Nonnenmacher and Biersack, Scalable feedback for large groups, 1999).
func suppressionDelay(limit time.Duration) time.Duration {
	const crowd = 7 // e^7, about a thousand, are kept apart
	x := 1 + math.Log(max(rand.Float64(), 1e-9))/crowd
	return time.Duration(max(x, 0) * float64(limit))
}

// probeSoonLocked makes a probe due within retryPause.
func (g *Group) probeSoonLocked(pa *Path, now time.Duration) {
	if pa.cancel != nil || pa.urgent || !pa.probed() {
		return
	}
	pa.urgent, pa.next = true, now+rand.N(min(retryPause, g.prober.o.Interval))
	g.prober.queueProbeLocked(pa)
}

// planLocked makes the next probe of a path due in this caller's next slot.
func (g *Group) planLocked(pa *Path, now time.Duration) {
	pa.urgent = false
	if g.pace == awake {
		pa.next, _ = g.slotAfterLocked(pa, now)
	} else {
		pa.next = g.dozeEndLocked(pa, now)
	}
	g.prober.queueProbeLocked(pa)
}

// jitter is d ±20 %.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
