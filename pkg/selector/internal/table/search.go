package table

import (
	"math/rand/v2"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// wanted is what a search is for.
type Wanted struct {
	Key   string   // what ConsistentHash hashes
	Avoid []string // ids of instances that are not wanted
	Tried []*Node  // picked before for the same call
}

// found is what a search ends with.
type Found struct {
	Node     *Node
	Instance *events.Instance
	Pass     breaker.Pass
	Index    uint8 // of the circle
}

// search is the search for one pick.
type search struct {
	*Table
	Wanted
	now   uint32
	force bool // an instance whose breaker does not allow it will do
}

// Search goes through the circles in their order: those of usable instances
// first. It is false when all that there is is not wanted.
func (t *Table) Search(w Wanted, now uint32) (Found, bool) {
	if t.First == nil {
		return Found{}, false
	}
	a := search{Table: t, Wanted: w, now: now}
	begin := 0
	if len(w.Tried) >= 2 {
		// Two instances failed: perhaps it is their circle. Begin with the next.
		begin = int(t.rank[t.First.index]) + 1
	} else if t.Spill != nil {
		if f, ok := a.away(t.Spill); ok {
			return f, true
		}
	}
	for _, a.force = range [...]bool{false, true} {
		for what := t.best; what < NotReady; what++ {
			if what >= Open && !a.force {
				break // their breakers allow nothing
			}
			for i := range t.levels {
				if what == t.best {
					i = (begin + i) % t.levels
				}
				if f, ok := a.from(&t.circles[int(what)*t.levels+i]); ok {
					return f, true
				}
			}
		}
	}
	return Found{}, false
}

// away takes an instance where the spill says.
func (a *search) away(s *Spill) (Found, bool) {
	random := rand.Uint32()
	if a.Kind == KindHash {
		random = uint32(scramble(xxhash.Sum64String(a.Key))) // the same key goes the same way
	}
	w := s.way(random)
	if w.over != nil && a.Kind.weighsUp() {
		if f, ok := a.take(a.along(w, a.now), w.to); ok {
			return f, true
		}
	}
	return a.from(w.to)
}

// from takes an instance of a circle: the strategy's choice, else any of the
// near set, else the nearest of the others.
func (a *search) from(c *Circle) (f Found, ok bool) {
	if len(c.near) == 0 {
		return Found{}, false
	}
	switch a.Kind {
	case KindHash:
		ok = a.ringOf(c).pick(a.Key, a.AllInFlight.Load(), func(n *Node) bool {
			f, ok = a.take(n, c)
			return ok
		})
	default:
		if f, ok = a.take(a.Choose(c, a.now), c); !ok && a.Kind != KindNearest {
			f, ok = a.one(c.near, c)
		}
	}
	if ok || len(c.space) == len(c.near) && a.Kind != KindNearest {
		return f, ok
	}
	for _, band := range c.farther(a.lens) {
		if f, ok = a.one(band, c); ok {
			return f, true
		}
	}
	return Found{}, false
}

// one takes the first of a set that may be had, from a random start.
func (a *search) one(set []*Node, c *Circle) (Found, bool) {
	from := rand.N(len(set))
	for i := range set {
		if f, ok := a.take(set[(from+i)%len(set)], c); ok {
			return f, true
		}
	}
	return Found{}, false
}

// take takes n if it is wanted and its breaker allows, or need not.
func (a *search) take(n *Node, c *Circle) (Found, bool) {
	in := n.Instance.Load()
	if slices.Contains(a.Tried, n) || slices.Contains(a.Avoid, in.ID) {
		return Found{}, false
	}
	pass, ok := a.Allow(n)
	if !ok && !a.force {
		return Found{}, false
	}
	index := c.index
	if a.Home { // it may be from another circle than c
		index = n.Home
	}
	return Found{n, in, pass, index}, true
}

// Allow asks the breaker of an instance. Who fills in needs no permission, and
// what becomes of the call says nothing to an open breaker.
func (t *Table) Allow(n *Node) (breaker.Pass, bool) {
	pass, err := n.Breaker.Allow()
	if err != nil && t.filled != nil {
		_, ok := t.filled[n]
		return pass, ok
	}
	return pass, err == nil
}
