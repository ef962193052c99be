package table

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// Query is what a search is for.
type Query struct {
	Key   string   // what ConsistentHash hashes
	Avoid []string // instances that are excluded: ID, zone/ID or key
	Tried []*Node  // nodes that were tried before for the same call
	Only  bool     // take usable instances alone, whose breakers allow it
}

// Choice is the result of a search.
type Choice struct {
	Node     *Node
	Instance *events.Instance
	Pass     breaker.Pass
	Index    uint8 // of the circle
	Full     bool  // there is none, as those that could be taken are full
}

// search is the search for one pick.
type search struct {
	*Table
	*Query
	now   uint32
	hash  uint64 // of the key, for ConsistentHash; without one a random number
	force bool   // take an instance though its breaker does not allow it
	full  int    // instances that would have been taken
}

// Search returns an available instance, going through the circles in their order:
// those of usable instances first. It returns false if the query excludes all. Where calls
// in flight are bounded, the call of the choice has begun, and a full instance is passed
// over: for the next one of its circle, then of the next circle, but never for one in a
// worse state, nor for another circle if calls must not leave.
func (t *Table) Search(q *Query, now uint32) (Choice, bool) {
	if t.First == nil || q.Only && t.best != Usable {
		return Choice{}, false
	}
	a := search{Table: t, Query: q, now: now}
	if t.Kind == KindHash {
		if a.hash = rand.Uint64(); q.Key != "" {
			a.hash = xxhash.Sum64String(q.Key)
		}
	}
	begin := 0
	if len(q.Tried) >= 2 {
		// Two instances failed, perhaps because of their circle: begin with the next.
		begin = int(t.rank[t.First.index]) + 1
	} else if t.Spill != nil {
		if f, ok := a.spilled(t.Spill); ok {
			return f, true
		}
	}
	for _, a.force = range [...]bool{false, true} {
		if q.Only && a.force {
			break
		}
		for what := t.best; what < NotReady; what++ {
			if what >= Open && !a.force || what > Usable && q.Only {
				break // their breakers allow no call
			}
			for i := range t.levels {
				if what == t.best {
					i = (begin + i) % t.levels
				}
				before := a.full
				if f, ok := a.from(&t.circles[int(what)*t.levels+i]); ok {
					return f, true
				}
				if a.full > before && t.Leave.Off {
					return Choice{Full: true}, false
				}
			}
			if a.full > 0 {
				return Choice{Full: true}, false
			}
		}
	}
	return Choice{}, false
}

// Another reports whether a pick that the query allows could take another node than n now,
// as good as those that picks begin with: one that is only listed, or used when there is no
// other, does not count.
func (t *Table) Another(q *Query, n *Node) bool {
	if t.First == nil {
		return false
	}
	a := search{Table: t, Query: q}
	for i := range t.levels {
		for _, set := range [...][]*Node{t.circles[int(t.best)*t.levels+i].near, t.circles[int(t.best)*t.levels+i].rest} {
			for _, other := range set {
				if other != n && (!t.Bounded || !other.Full()) && !slices.Contains(q.Tried, other) && other.Breaker.State() == breaker.Closed &&
					(len(q.Avoid) == 0 || !a.avoids(other.Instance.Load())) {
					return true
				}
			}
		}
	}
	return false
}

// spilled takes an instance where the spill lets the pick begin.
func (a *search) spilled(s *Spill) (Choice, bool) {
	random := rand.Uint32()
	if a.Kind == KindHash {
		random = uint32(splitMix64(a.hash)) // the same key goes the same way
	}
	return a.from(s.start(random))
}

// from takes an instance of a circle: the strategy's choice, else any of the near set,
// else the nearest available one of the others.
func (a *search) from(c *Circle) (f Choice, ok bool) {
	if len(c.near) == 0 {
		return Choice{}, false
	}
	switch a.Kind {
	case KindHash:
		now, all := a.now, a.AllHeld.Load()
		held := stillHeld(all, c.near[0].typical(), now)
		if held > 0 { // what is held changes in milliseconds; the time of such a pick is rougher
			now = Ticks(a.Now())
			held = stillHeld(all, c.near[0].typical(), now)
		}
		before := a.full
		a.ringOf(c).pick(a.hash, float32(a.AllInFlight[a.Subset].Load())+held, a.Others.Load(), now, func(n *Node) bool {
			f, ok = a.take(n, c)
			// The ring has many points of each node: it is not walked where all are full.
			return ok || a.full == before+1 && !slices.ContainsFunc(c.near, func(n *Node) bool { return !n.Full() })
		})
	default:
		if f, ok = a.take(a.Choose(c, a.now), c); !ok && a.Kind != KindNearest {
			f, ok = a.one(c.near, c)
		}
	}
	if ok || len(c.backing) == len(c.near) && a.Kind != KindNearest {
		return f, ok
	}
	for _, band := range c.farther(a.Table) {
		if f, ok = a.one(band, c); ok {
			return f, true
		}
	}
	return Choice{}, false
}

// one takes the first available node of a set, from a random start.
func (a *search) one(set []*Node, c *Circle) (Choice, bool) {
	from := rand.N(len(set))
	for i := range set {
		if f, ok := a.take(set[(from+i)%len(set)], c); ok {
			return f, true
		}
	}
	return Choice{}, false
}

// take takes n unless the query excludes it or its breaker does not allow it.
func (a *search) take(n *Node, c *Circle) (Choice, bool) {
	in := n.Instance.Load()
	if slices.Contains(a.Tried, n) || len(a.Avoid) > 0 && a.avoids(in) {
		return Choice{}, false
	}
	if a.Bounded && !n.reserve() {
		if _, fills := a.fillIns[n]; fills || a.force || n.Breaker.State() != breaker.Open {
			a.full++
		}
		return Choice{}, false
	}
	pass, ok := a.Allow(n)
	if !ok && !a.force {
		if a.Bounded {
			n.TakeBack()
		}
		return Choice{}, false
	}
	return Choice{Node: n, Instance: in, Pass: pass, Index: c.index}, true
}

// avoids reports whether the query excludes an instance.
func (a *search) avoids(in *events.Instance) bool {
	k := in.Key()
	return slices.ContainsFunc(a.Avoid, func(name string) bool {
		where, ok := strings.CutSuffix(name, k.ID)
		switch {
		case !ok || where == "":
			return ok
		case strings.HasSuffix(where, "/"):
			return where[:len(where)-1] == cmp.Or(k.Zone, events.Unknown)
		}
		return strings.HasSuffix(where, ".") && name == k.String()
	})
}

// Allow asks the breaker of a node for a call. A node that fills in is called without
// its permission; the outcome of that call is not reported to the breaker.
func (t *Table) Allow(n *Node) (breaker.Pass, bool) {
	pass, err := n.Breaker.Allow()
	if err != nil && t.fillIns != nil {
		_, ok := t.fillIns[n]
		return pass, ok
	}
	return pass, err == nil
}
