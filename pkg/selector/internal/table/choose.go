package table

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// Kind is a strategy as a number: comparing names takes as long as choosing.
type Kind uint8

// The strategies, see those of package selector.
const (
	KindP2C Kind = iota
	KindNearest
	KindRoundRobin
	KindWeighted
	KindRandom
	KindLeastRequest
	KindHash
	KindLoadAware
)

// KindNames are the names of all strategies.
var KindNames = [...]string{
	KindP2C: "p2c", KindNearest: "nearest", KindRoundRobin: "round_robin", KindWeighted: "weighted_round_robin",
	KindRandom: "random", KindLeastRequest: "least_request", KindHash: "consistent_hash", KindLoadAware: "load_aware",
}

func (k Kind) String() string { return KindNames[k] }

// KindOf is the strategy of a name, which must be one of [KindNames].
func KindOf(name string) Kind { return Kind(slices.Index(KindNames[:], name)) }

// ramps reports whether the strategy looks at the age of instances.
func (k Kind) ramps() bool { return k != KindHash && k != KindNearest }

// turn is the counter of a round robin. It outlives the tables.
type turn struct {
	_ [64]byte // no other data on the line that every pick writes to
	n atomic.Uint64
	_ [56]byte
}

// Choose returns a node of a near set that is not empty, by any strategy but
// ConsistentHash. The node may turn out not to be available: its breaker decides. now
// matters only to the strategies that learn durations.
func (t *Table) Choose(c *Circle, now uint32) *Node {
	near := c.near
	switch t.Kind {
	case KindRoundRobin:
		for asked := 0; ; {
			i := uint32(t.turn.n.Add(1)) % uint32(len(near))
			if !c.admits(i) {
				continue
			}
			if asked++; asked > len(near) || !near[i].Pausing() {
				return near[i]
			}
		}
	case KindRandom:
		n := t.random(c)
		for range 2 * pauseCalls {
			if !n.Pausing() {
				break
			}
			n = t.random(c)
		}
		return n
	case KindWeighted:
		if len(near) > 1 {
			n := near[c.stride.next(&t.turn.n)]
			for range len(near) {
				if !n.Pausing() {
					break
				}
				n = near[c.stride.next(&t.turn.n)]
			}
			return n
		}
	case KindNearest:
		for _, n := range near {
			if !n.Pausing() {
				return n
			}
		}
	case KindP2C, KindLeastRequest, KindLoadAware:
		if len(near) == 1 {
			break
		}
		if c.upTo != nil {
			return t.chooseByWeight(c, now)
		}
		a, b := two(near)
		now = t.exactly(now, a, b)
		if n := t.preferred2(c, a, b, now); n != nil {
			return n
		}
		la, lb := t.loads(a, b, now)
		if lb < la {
			return b
		}
		return a
	}
	return near[0]
}

// exactly is the time for two nodes. A strategy that needs no durations is given none, and
// needs it where something is held against a node.
func (t *Table) exactly(now uint32, a, b *Node) uint32 {
	if t.Kind == KindLeastRequest && (a.holds.Load() || b.holds.Load()) {
		return Ticks(t.Now())
	}
	return now
}

// random draws a node by weight.
func (t *Table) random(c *Circle) *Node {
	if c.upTo != nil {
		return c.near[c.draw()]
	}
	return c.near[(rand.Uint64()>>32)*uint64(len(c.near))>>32]
}

// preferred2 returns the one of two nodes that is to be taken whatever their loads are, nil
// if that is neither.
func (t *Table) preferred2(c *Circle, a, b *Node, now uint32) *Node {
	if c.halfOpen {
		if n := trial(a, b); n != nil {
			return n
		}
	}
	if (a.holds.Load() || b.holds.Load()) && a.pausing(now) != b.pausing(now) {
		if a.pausing(now) {
			return b
		}
		return a
	}
	if t.Kind == KindLoadAware {
		return moreSpare(a, b, now)
	}
	return nil
}

// two returns two different random nodes.
func two(near []*Node) (a, b *Node) {
	r := rand.Uint64()
	n := uint64(len(near))
	i := (r >> 32) * n >> 32
	j := (r & (1<<32 - 1)) * (n - 1) >> 32
	if j >= i {
		j++
	}
	return near[i], near[j]
}

// trial returns one of two nodes of which one is half-open, nil if neither is: that one in
// half of the cases, the other one else. A half-open node must be called whatever its load
// is, since no other call finds out whether it works again; its breaker limits how often.
// But it gets no more than its share: where calls are rare, each one could be a trial.
func trial(a, b *Node) *Node {
	ta, tb := a.Breaker.State() == breaker.HalfOpen, b.Breaker.State() == breaker.HalfOpen
	switch {
	case !ta && !tb:
		return nil
	case ta && tb, rand.Uint64()&1 == 0:
		return a
	}
	return b
}

// sameDuration is the factor by which the calls of two nodes may differ and still count
// as equally long. Without it the slightly faster of two would get all calls that come
// one at a time.
const sameDuration = 1.25

// differ reports whether the calls of two nodes take so different times that it counts.
func differ(da, db float32) bool {
	return da > sameDuration*db+float32(sameWithin) || db > sameDuration*da+float32(sameWithin)
}

// loads are the loads of two nodes of the same weight, with one more call each: calls
// in flight times their duration, if that is known of both and differs; for
// LeastRequest the calls alone.
func (t *Table) loads(a, b *Node, now uint32) (la, lb float32) {
	la, lb = a.queue(now), b.queue(now)
	if t.Kind == KindLeastRequest {
		return la, lb
	}
	if da, db := durations(a, b, now); differ(da, db) {
		la, lb = la*da, lb*db
	}
	return la, lb
}

// chooseByWeight chooses where instances have different weights, or some ramp up. Nodes
// are drawn by weight, and the first one drawn is taken unless its load by weight is
// greater than that of the second by more than some calls of the lighter one. So shares
// are those of the weights at any load, and calls do not pile up on one that is slow.
func (t *Table) chooseByWeight(c *Circle, now uint32) *Node {
	i, j := c.draw(), c.draw()
	if i == j {
		// Most draws may be of the same few nodes, and one of those that stopped
		// answering must not get nearly all calls.
		j = (i + 1 + rand.IntN(len(c.near)-1)) % len(c.near)
	}
	a, b := c.near[i], c.near[j]
	now = t.exactly(now, a, b)
	if n := t.preferred2(c, a, b, now); n != nil {
		return n
	}
	wa, wb := c.weightOf(i), c.weightOf(j)
	la, lb, apart := a.queue(now)-1, b.queue(now)-1, callsApart/min(wa, wb)
	if t.Kind != KindLeastRequest {
		if da, db := durations(a, b, now); differ(da, db) {
			la, lb, apart = (la+1)*da, (lb+1)*db, apart*min(da, db)
		}
	}
	if la/wa-lb/wb > apart {
		return b
	}
	return a
}

// callsApart is how many calls of the lighter of two nodes their loads may differ by, see
// [Table.chooseByWeight]. Calls in flight are whole numbers: with less, the shares of the
// weights would be missed by up to a third at few calls in flight; with two, by 8 % at
// most (simulated with weights of 2:1, 3:1 and 10:1, and 1 to 128 calls in flight).
const callsApart = 2

// sameScore is by how much scores may differ and still count as equal. Without it all
// callers would take the slightly better of two until its next beat shows the load.
const sameScore = 0.05

// scoreOf is the spare capacity that a beat reports: above 0, at most 1.
func scoreOf(b events.Beat) float32 {
	const least = 1e-6 // 0 means no beat
	return float32(max(least, 0.4*(1-b.CPU)+0.4*(1-b.Memory)+0.2/(1+float64(b.Queue))))
}

// SetBeat stores the score of a beat that has just come, negative if calls wait.
func (n *Node) SetBeat(b events.Beat, now uint32) {
	score := scoreOf(b)
	if b.Queue > 0 {
		score = -score
	}
	n.beat.Store(packCost(score, now))
}

// lastBeat is the score of the last beat, 0 if that is not fresh.
func (n *Node) lastBeat(now uint32) float32 {
	score, at := unpackCost(n.beat.Load())
	if age := int32(now - at); age > int32(beatFresh/tick) || age < -int32(beatFresh/tick) {
		return 0
	}
	return score
}

func (n *Node) score(now uint32) float32 {
	score := n.lastBeat(now)
	return max(score, -score)
}

// Queued reports whether a fresh beat says that calls wait in the instance.
func (n *Node) Queued(now uint32) bool { return n.lastBeat(now) < 0 }

// moreSpare returns the node with the higher score, nil if a score is missing or they
// are about equal.
func moreSpare(a, b *Node, now uint32) *Node {
	fa, fb := a.score(now), b.score(now)
	switch {
	case fa == 0 || fb == 0 || max(fa, fb)-min(fa, fb) < sameScore:
		return nil
	case fb > fa:
		return b
	}
	return a
}

// ChooseSpilled draws where a pick begins, and chooses a node.
func (t *Table) ChooseSpilled(s *Spill, now uint32) *Node {
	return t.Choose(s.start(rand.Uint32()), now)
}
