package table

import (
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// kind is a strategy as a pick tells it: comparing names takes as long as
// choosing.
type Kind uint8

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

var KindNames = [...]string{
	KindP2C: "p2c", KindNearest: "nearest", KindRoundRobin: "round_robin", KindWeighted: "weighted_round_robin",
	KindRandom: "random", KindLeastRequest: "least_request", KindHash: "consistent_hash", KindLoadAware: "load_aware",
}

func (k Kind) String() string { return KindNames[k] }

func KindOf(name string) Kind { return Kind(slices.Index(KindNames[:], name)) }

// ramps says whether the strategy looks at the age of instances.
func (k Kind) ramps() bool { return k != KindHash && k != KindNearest }

// turn is the place of a round robin. It lives longer than the tables.
type turn struct {
	_ [64]byte // no other data on the line that every pick writes to
	n atomic.Uint64
	_ [56]byte
}

// Choose picks from a near set that is not empty, for all strategies but
// ConsistentHash. The choice may turn out not to be available: its breaker has
// the last word. Time is only looked at by the strategies that learn from it.
func (t *Table) Choose(c *Circle, now uint32) *Node {
	near := c.near
	switch t.Kind {
	case KindRoundRobin:
		for {
			if i := uint32(t.turn.n.Add(1)) % uint32(len(near)); c.keep(i) {
				return near[i]
			}
		}
	case KindRandom:
		if c.thin != nil {
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
		if c.thin != nil {
			a, b = c.draw(), c.draw()
		}
		if c.trials {
			// One that is half-open is tried when it is drawn, for nobody else
			// will find out whether it is back. Its breaker limits how often.
			if a.Breaker.State() == breaker.HalfOpen {
				return a
			}
			if b.Breaker.State() == breaker.HalfOpen {
				return b
			}
		}
		if a == b { // which thinning out brings about
			return c.relieved(a)
		}
		if t.Kind == KindP2C {
			return lighter(a, b, now)
		}
		if t.Kind == KindLoadAware {
			return fitter(a, b, now)
		}
		if b.queue() < a.queue() {
			return b
		}
		return a
	}
	return near[0]
}

// two draws two different nodes.
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

// alike is how much longer calls of one node may take than of another and still
// be taken for equally long. Without it the slightly faster of two would get
// all calls that come one at a time.
const alike = 1.25

// lighter is the node with less load: calls in flight times their duration, by
// weight. While the duration of one is not known, or is old though the other is
// called all the time, only the calls in flight are compared: so a new instance
// is neither flooded nor starved, and a slow one is tried again.
func lighter(a, b *Node, now uint32) *Node {
	la, lb := a.queue(), b.queue()
	if da, db := durations(a, b, now); da > alike*db || db > alike*da {
		la, lb = la*da, lb*db
	}
	if lb < la {
		return b
	}
	return a
}

const (
	// beatFresh is how long a beat counts: three are sent in that time.
	beatFresh = 15 * time.Second
	// fitAlike is by how much scores may differ and still be taken for equal.
	// Without it all callers would take the slightly better of two until its next
	// beat says what came of it.
	fitAlike = 0.05
)

// fitness is what an instance has to spare by a beat: above 0, at most 1.
func fitness(b events.Beat) float32 {
	const least = 1e-6 // 0 is no beat
	return float32(max(least, 0.4*(1-b.CPU)+0.4*(1-b.Memory)+0.2/(1+float64(b.Queue))))
}

// Hear takes in a beat.
func (n *Node) Hear(b events.Beat, now uint32) { n.beat.Store(packCost(fitness(b), now)) }

// fit is the score of a node by its last beat, 0 if that is not fresh.
func (n *Node) fit(now uint32) float32 {
	score, at := unpackCost(n.beat.Load())
	if age := int32(now - at); age > int32(beatFresh/tick) || age < -int32(beatFresh/tick) {
		return 0
	}
	return score
}

// fitter is the node with more to spare, by its own word if that is known of
// both.
func fitter(a, b *Node, now uint32) *Node {
	fa, fb := a.fit(now), b.fit(now)
	switch {
	case fa == 0 || fb == 0 || max(fa, fb)-min(fa, fb) < fitAlike:
		return lighter(a, b, now)
	case fb > fa:
		return b
	}
	return a
}
