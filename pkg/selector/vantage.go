package selector

import (
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// maxVantages is how many vantages of one service from other places are kept.
const maxVantages = 64

// place is the key of a vantage from another place.
type place struct {
	from      topology.Location // only the fields that are levels
	protocols table.Protocols
}

// fields says which fields of a location are levels.
type fields struct{ region, zone, rack, host bool }

func fieldsOf(levels topology.Levels) fields {
	return fields{
		slices.Contains(levels, topology.Region), slices.Contains(levels, topology.Zone),
		slices.Contains(levels, topology.Rack), slices.Contains(levels, topology.Host),
	}
}

// isLabel reports whether a level is a metadata key.
func isLabel(l topology.Level) bool { return fieldsOf(topology.Levels{l}) == fields{} }

// of is a location without the fields that are no levels: callers that differ in nothing
// else see the same circles.
func (f *fields) of(l topology.Location) topology.Location {
	if !f.region {
		l.Region = ""
	}
	if !f.zone {
		l.Zone = ""
	}
	if !f.rack {
		l.Rack = ""
	}
	if !f.host {
		l.Host = ""
	}
	return l
}

// vantage is a service seen from one place, as far as its instances have an endpoint of one
// protocol.
type vantage struct {
	svc       *service
	pickFlags uint8
	table     atomic.Pointer[table.Table]

	usedAt  atomic.Int64   // when a pick last used a vantage from another place: a look of maintain
	builder *table.Builder // guarded by the service
}

// newVantage is for the selector's own place if from is nil.
func (svc *service) newVantage(from *topology.Location, p table.Protocols) *vantage {
	return &vantage{svc: svc, pickFlags: svc.pickFlags, builder: table.NewBuilder(&svc.Shared, from, p)}
}

// vantage returns the vantage for a request, made when it is first needed.
func (svc *service) vantage(r *Request) *vantage {
	p := svc.Requested(r.Protocol)
	if r.From == nil || *r.From == svc.sel.home.Location {
		return svc.homeVantage(p)
	}
	key := place{svc.sel.fields.of(*r.From), p}
	if alike := svc.sel.alike; alike != nil && key.from == *alike {
		return svc.homeVantage(p)
	}
	if v := (*svc.vantages.Load())[key]; v != nil {
		v.use()
		return v
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	old := *svc.vantages.Load()
	if v := old[key]; v != nil {
		return v
	}
	v := svc.newVantage(&key.from, p)
	vantages := maps.Clone(old)
	if len(vantages) >= maxVantages { // places come from outside, and must not cost memory for ever
		delete(vantages, leastRecent(vantages))
	}
	v.use()
	vantages[key] = v
	svc.vantages.Store(&vantages)
	return v
}

// use notes that a pick uses the vantage.
func (v *vantage) use() {
	if now := v.svc.sel.clock.Load(); v.usedAt.Load() != now {
		v.usedAt.Store(now)
	}
}

// leastRecent is the vantage that was not used for the longest time: any one of those, since
// places that take turns would else evict each other just before they are used again.
func leastRecent(vantages map[place]*vantage) place {
	var least place
	at := int64(math.MaxInt64)
	for key, v := range vantages {
		if used := v.usedAt.Load(); used < at {
			least, at = key, used
		}
	}
	return least
}

func (svc *service) homeVantage(p table.Protocols) *vantage {
	if p == 0 {
		return svc.home
	}
	slot := &svc.homes[p.Index()]
	if v := slot.Load(); v != nil {
		return v
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if v := slot.Load(); v != nil {
		return v
	}
	v := svc.newVantage(nil, p)
	for of, h := range svc.unloaded {
		if of.protocols == p {
			v.builder.Hint(of.circle, h.Duration, h.at)
		}
	}
	slot.Store(v)
	return v
}

// current returns the table of a vantage, nil before the first snapshot and after the
// service was evicted. Tables for other places are built when they are next used, those
// for the selector's own place with every change.
func (v *vantage) current() *table.Table {
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

// renewLocked builds the table of a vantage anew.
func (v *vantage) renewLocked(generation uint64) *table.Table {
	t := v.builder.Build(v.svc.members.list, v.svc.Now(), generation)
	v.svc.dueLocked(t.Due)
	v.table.Store(t)
	return t
}

// lookLocked looks at what became of the calls lately, and lets calls leave circles or stay.
// It reports whether there were none.
func (v *vantage) lookLocked(now time.Duration) (idle bool) {
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
