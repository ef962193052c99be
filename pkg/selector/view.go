package selector

import (
	"maps"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// maxViews is how many views of one service from other places are kept.
const maxViews = 64

// place is what a view from elsewhere is for.
type place struct {
	from      topology.Location
	protocols protocols
}

// view is one way to look at a service: from one place, at the instances that
// have an endpoint of one protocol.
type view struct {
	svc       *service
	kind      kind  // of the strategy
	ending    uint8 // flags of its picks
	home      bool  // from the selector's own place
	near      bool  // near enough to it that distances measured here count
	protocols protocols
	place     topology.Place
	table     atomic.Pointer[table]
	rings     []atomic.Pointer[ring] // the last of each circle, for ConsistentHash
	turn      turn

	// What follows is guarded by the service. Only views from the selector's own
	// place change it.
	order order
	loads []float64 // of circles: calls in flight per instance, on average over a second
	reach int       // how many circles were added to the first for its load
}

// newView is for the selector's own place if from is nil.
func (svc *service) newView(from *topology.Location, p protocols) *view {
	v := &view{
		svc: svc, kind: svc.kind, ending: svc.ending,
		home: from == nil, near: true, protocols: p, place: svc.sel.home,
		order: newOrder(len(svc.sel.assumed)), loads: make([]float64, len(svc.sel.assumed)),
	}
	if from != nil {
		v.place = topology.Place{Location: *from}
		v.near = svc.sel.opts.Levels.Circle(svc.sel.home, v.place) == 0
	}
	if v.kind == kindHash {
		v.rings = make([]atomic.Pointer[ring], len(svc.sel.assumed))
	}
	v.turn.n.Store(rand.Uint64N(1 << 32)) // callers do not all begin with the same instance
	return v
}

// view returns the one for a request, made when it is first asked for.
func (svc *service) view(r *Request) *view {
	p := wish(r.Protocol)
	if r.From == nil || *r.From == svc.sel.home.Location {
		return svc.homeView(p)
	}
	key := place{*r.From, p}
	if v := (*svc.views.Load())[key]; v != nil {
		return v
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	old := *svc.views.Load()
	if v := old[key]; v != nil {
		return v
	}
	v := svc.newView(&key.from, p)
	views := maps.Clone(old)
	for other := range views {
		if len(views) < maxViews {
			break
		}
		delete(views, other) // any: places come from outside, and must not cost memory for ever
	}
	views[key] = v
	svc.views.Store(&views)
	return v
}

func (svc *service) homeView(p protocols) *view {
	if p == 0 {
		return svc.home
	}
	slot := &svc.homes[bits.TrailingZeros8(uint8(p))]
	if v := slot.Load(); v != nil {
		return v
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if v := slot.Load(); v != nil {
		return v
	}
	v := svc.newView(nil, p)
	slot.Store(v)
	return v
}

// current is the table of a view, nil before the first snapshot and after the
// service was forgotten. Tables for other places are made anew when they are
// next asked for, those for the selector's own with every change.
func (v *view) current() *table {
	t := v.table.Load()
	if t != nil && (v.home || t.generation == v.svc.generation.Load()) {
		return t
	}
	v.svc.mu.Lock()
	defer v.svc.mu.Unlock()
	t = v.table.Load()
	now := v.svc.generation.Load()
	if v.svc.known && !v.svc.closed && (t == nil || t.generation != now) {
		t = v.renewLocked(now)
	}
	return t
}

// renewLocked makes the table of a view anew.
func (v *view) renewLocked(generation uint64) *table {
	t := v.build(v.svc.members, generation)
	if v.home {
		for v.demote(t) {
			t = v.build(v.svc.members, generation)
		}
		if t.ramps {
			v.svc.dueLocked(t.at + rampStep)
		}
	}
	if v.kind == kindHash && t.first != nil {
		v.ringOf(t.first) // now rather than by a pick
		for _, c := range t.stages {
			if t.spill != nil {
				v.ringOf(c)
			}
		}
	}
	v.table.Store(t)
	return t
}
