package selector

import (
	"maps"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// maxViews is how many views of one service from other places are kept.
const maxViews = 64

// place is the key of a view from another place.
type place struct {
	from      topology.Location
	protocols table.Protocols
}

// view is a service seen from one place, as far as its instances have an endpoint of one
// protocol.
type view struct {
	svc       *service
	pickFlags uint8
	table     atomic.Pointer[table.Table]

	builder *table.Builder // guarded by the service
}

// newView is for the selector's own place if from is nil.
func (svc *service) newView(from *topology.Location, p table.Protocols) *view {
	return &view{svc: svc, pickFlags: svc.pickFlags, builder: table.NewBuilder(&svc.Shared, from, p)}
}

// view returns the view for a request, made when it is first needed.
func (svc *service) view(r *Request) *view {
	p := table.ProtocolOf(r.Protocol)
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
		delete(views, other) // any one: places come from outside, and must not cost memory for ever
	}
	views[key] = v
	svc.views.Store(&views)
	return v
}

func (svc *service) homeView(p table.Protocols) *view {
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

// current returns the table of a view, nil before the first snapshot and after the
// service was evicted. Tables for other places are built when they are next used, those
// for the selector's own place with every change.
func (v *view) current() *table.Table {
	t := v.table.Load()
	if t != nil && (v.builder.Home || t.Generation == v.svc.generation.Load()) {
		return t
	}
	v.svc.mu.Lock()
	defer v.svc.mu.Unlock()
	t = v.table.Load()
	now := v.svc.generation.Load()
	if v.svc.known && !v.svc.closed && (t == nil || t.Generation != now) {
		t = v.renewLocked(now)
	}
	return t
}

// renewLocked builds the table of a view anew.
func (v *view) renewLocked(generation uint64) *table.Table {
	t := v.builder.Build(v.svc.members.list, v.svc.Now(), generation)
	v.svc.dueLocked(t.Due)
	v.table.Store(t)
	return t
}

// lookLocked looks at what became of the calls lately, and lets calls leave circles or stay.
// It reports whether there were none.
func (v *view) lookLocked(now time.Duration) (idle bool) {
	t := v.table.Load()
	if t == nil {
		return true
	}
	next, idle := v.builder.Look(t, now)
	if next != t {
		v.table.Store(next)
	}
	return idle
}
