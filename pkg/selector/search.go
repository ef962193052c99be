package selector

import (
	"math/rand/v2"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// wanted is what a search is for.
type wanted struct {
	key   string   // what ConsistentHash hashes
	avoid []string // ids of instances that are not wanted
	tried []*node  // picked before for the same call
}

// found is what a search ends with.
type found struct {
	node     *node
	instance *events.Instance
	pass     breaker.Pass
	index    uint8 // of the circle
}

// search is the search for one pick.
type search struct {
	*table
	wanted
	now   uint32
	force bool // an instance whose breaker does not allow it will do
}

// search goes through the circles in their order: those of usable instances
// first. It is false when all that there is is not wanted.
func (t *table) search(w wanted, now uint32) (found, bool) {
	if t.first == nil {
		return found{}, false
	}
	a := search{table: t, wanted: w, now: now}
	begin := 0
	if len(w.tried) >= 2 {
		// Two instances failed: perhaps it is their circle. Begin with the next.
		begin = int(t.rank[t.first.index]) + 1
	} else if t.spill != nil {
		if f, ok := a.away(t.spill); ok {
			return f, true
		}
	}
	for _, a.force = range [...]bool{false, true} {
		for what := t.best; what < notReady; what++ {
			if what >= open && !a.force {
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
	return found{}, false
}

// away takes an instance where the spill says.
func (a *search) away(s *spill) (found, bool) {
	random := rand.Uint32()
	if a.kind == kindHash {
		random = uint32(scramble(xxhash.Sum64String(a.key))) // the same key goes the same way
	}
	w := s.way(random)
	if w.over != nil && a.kind.weighsUp() {
		if f, ok := a.take(a.along(w, a.now), w.to); ok {
			return f, true
		}
	}
	return a.from(w.to)
}

// from takes an instance of a circle: the strategy's choice, else any of the
// near set, else the nearest of the others.
func (a *search) from(c *circle) (f found, ok bool) {
	if len(c.near) == 0 {
		return found{}, false
	}
	switch a.kind {
	case kindHash:
		ok = a.ringOf(c).pick(a.key, a.inFlightOfAll.Load(), func(n *node) bool {
			f, ok = a.take(n, c)
			return ok
		})
	default:
		if f, ok = a.take(a.choose(c, a.now), c); !ok && a.kind != kindNearest {
			f, ok = a.one(c.near, c)
		}
	}
	if ok || len(c.space) == len(c.near) && a.kind != kindNearest {
		return f, ok
	}
	for _, band := range a.farther(c) {
		if f, ok = a.one(band, c); ok {
			return f, true
		}
	}
	return found{}, false
}

// one takes the first of a set that may be had, from a random start.
func (a *search) one(set []*node, c *circle) (found, bool) {
	from := rand.N(len(set))
	for i := range set {
		if f, ok := a.take(set[(from+i)%len(set)], c); ok {
			return f, true
		}
	}
	return found{}, false
}

// take takes n if it is wanted and its breaker allows, or need not.
func (a *search) take(n *node, c *circle) (found, bool) {
	in := n.instance.Load()
	if slices.Contains(a.tried, n) || slices.Contains(a.avoid, in.ID) {
		return found{}, false
	}
	pass, ok := a.allow(n)
	if !ok && !a.force {
		return found{}, false
	}
	index := c.index
	if a.home { // it may be from another circle than c
		index = n.home
	}
	return found{n, in, pass, index}, true
}

// allow asks the breaker of an instance. Who fills in needs no permission, and
// what becomes of the call says nothing to an open breaker.
func (t *table) allow(n *node) (breaker.Pass, bool) {
	pass, err := n.breaker.Allow()
	if err != nil && t.filled != nil {
		_, ok := t.filled[n]
		return pass, ok
	}
	return pass, err == nil
}
