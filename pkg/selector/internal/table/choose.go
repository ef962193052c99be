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
		for {
			if i := uint32(t.turn.n.Add(1)) % uint32(len(near)); c.admits(i) {
				return near[i]
			}
		}
	case KindRandom:
		if c.admit != nil {
			return c.draw()
		}
		return near[(rand.Uint64()>>32)*uint64(len(near))>>32]
	case KindWeighted:
		return near[c.stride.next(&t.turn.n)]
	case KindP2C, KindLeastRequest, KindLoadAware:
		if len(near) == 1 {
			break
		}
		a, b := two(near)
		if c.admit != nil {
			a, b = c.draw(), c.draw()
		}
		if c.halfOpen {
			// A half-open node is taken when it is drawn: no other call finds out
			// whether it is back. Its breaker limits how often.
			if a.Breaker.State() == breaker.HalfOpen {
				return a
			}
			if b.Breaker.State() == breaker.HalfOpen {
				return b
			}
		}
		if a == b { // which draw may return
			return c.orLessLoaded(a)
		}
		if t.Kind == KindP2C {
			return lessLoaded(a, b, now)
		}
		if t.Kind == KindLoadAware {
			return moreSpare(a, b, now)
		}
		if b.queue() < a.queue() {
			return b
		}
		return a
	}
	return near[0]
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

// sameDuration is the factor by which the calls of two nodes may differ and still count
// as equally long. Without it the slightly faster of two would get all calls that come
// one at a time.
const sameDuration = 1.25

// lessLoaded returns the node with less load: calls in flight times their duration, by
// weight. If durations cannot be compared, see [durations], only the calls in flight are:
// so a new instance is neither flooded nor starved, and a slow one is tried again.
func lessLoaded(a, b *Node, now uint32) *Node {
	la, lb := a.queue(), b.queue()
	if da, db := durations(a, b, now); da > sameDuration*db || db > sameDuration*da {
		la, lb = la*da, lb*db
	}
	if lb < la {
		return b
	}
	return a
}

// sameScore is by how much scores may differ and still count as equal. Without it all
// callers would take the slightly better of two until its next beat shows the load.
const sameScore = 0.05

// scoreOf is the spare capacity that a beat reports: above 0, at most 1.
func scoreOf(b events.Beat) float32 {
	const least = 1e-6 // 0 means no beat
	return float32(max(least, 0.4*(1-b.CPU)+0.4*(1-b.Memory)+0.2/(1+float64(b.Queue))))
}

// SetBeat stores the score of a beat that has just come.
func (n *Node) SetBeat(b events.Beat, now uint32) { n.beat.Store(packCost(scoreOf(b), now)) }

// score is that of the last beat, 0 if that is not fresh.
func (n *Node) score(now uint32) float32 {
	score, at := unpackCost(n.beat.Load())
	if age := int32(now - at); age > int32(beatFresh/tick) || age < -int32(beatFresh/tick) {
		return 0
	}
	return score
}

// moreSpare returns the node with the higher score, or the less loaded one if a score
// is missing or they are about equal.
func moreSpare(a, b *Node, now uint32) *Node {
	fa, fb := a.score(now), b.score(now)
	switch {
	case fa == 0 || fb == 0 || max(fa, fb)-min(fa, fb) < sameScore:
		return lessLoaded(a, b, now)
	case fb > fa:
		return b
	}
	return a
}
