package latency

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Who probes what, and when, is decided without a word between the reporters
// of a zone: time is cut into slots, PerInterval of them in each period of an
// instance, and each slot belongs to the reporter with the greatest hash of
// (reporter, instance, slot) among those that were heard of lately: rendezvous
// hashing (Thaler and Ravishankar, 1998). So an instance is measured equally
// often however many reporters there are, by one after the other of them, and
// when one comes or goes only its own slots change hands. Clocks that differ
// cost a measurement too many or too few, never all.

// mix makes a hash of two (the finalizer of SplitMix64; Steele, Lea and Flood,
// 2014).
func mix(a, b uint64) uint64 {
	h := a ^ b*0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// downAfter is after how many failures in a row an instance is taken to be down.
const downAfter = 3

// leavesToZoneLocked says whether others in the zone find it down, too, so that all
// of them need not try again and again: those whose slot it is do, as often as
// one who is alone would, and the others try when they hear that it answered.
func (g *Group) leavesToZoneLocked(pa *Path, now time.Duration) bool {
	return pa.failures.Load() >= downAfter && len(g.live) > 0 &&
		!slices.ContainsFunc(pa.votes, func(v vote) bool { return now-v.at < maxRetryPause })
}

// maxSlots is how far ahead a slot of our own is looked for.
const maxSlots = 128

// slotAfterLocked is when our next slot for pa begins, on the prober's clock,
// and whether it is one: if not it is when to look again.
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

// ownsLocked says whether a slot is ours. None is while others report and do
// not know that we are there: many who start together would all take it.
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

// aheadLocked is how many of the other reporters come before us for a slot,
// at most most.
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

// suppressionDelay is a random delay up to limit that lets few of very many speak
// before the others have heard them: its density grows exponentially
// (Nonnenmacher and Biersack, Scalable feedback for large groups, 1999).
func suppressionDelay(limit time.Duration) time.Duration {
	const crowd = 7 // e^7, about a thousand, are kept apart
	x := 1 + math.Log(max(rand.Float64(), 1e-9))/crowd
	return time.Duration(max(x, 0) * float64(limit))
}

// probeSoonLocked makes a probe due retryPause.
func (g *Group) probeSoonLocked(pa *Path, now time.Duration) {
	if pa.cancel != nil || pa.urgent || !pa.probed() {
		return
	}
	pa.urgent, pa.next = true, now+rand.N(min(retryPause, g.prober.o.Interval))
	g.prober.queueProbeLocked(pa)
}

// planLocked puts a path in the queue for our next slot.
func (g *Group) planLocked(pa *Path, now time.Duration) {
	pa.urgent = false
	pa.next, _ = g.slotAfterLocked(pa, now)
	g.prober.queueProbeLocked(pa)
}

// jitter is d ±20 %.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}
