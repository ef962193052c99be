package selector

import (
	"maps"
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// maxVantages is how many vantages of one service are kept, besides those from the
// selector's own place by the service's own strategy.
const maxVantages = 64

// place is the key of another vantage.
type place struct {
	home      bool              // it is the selector's own
	from      topology.Location // only the fields that are levels
	protocols table.Protocols
	kind      table.Kind
	subset    *subsetView // nil: all instances
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

// vantage is a service, or a subset of it, seen from one place, as far as its instances
// have an endpoint of one protocol.
type vantage struct {
	rules     *rules
	subset    *subsetView // nil: all instances
	kind      table.Kind
	home      bool // from the selector's own place
	pickFlags uint8
	number    uint8 // of the subset
	table     atomic.Pointer[table.Table]
	stale     atomic.Bool // its table is not that of the last change

	usedAt  atomic.Int64   // when a pick last used a vantage that is in the map: a look of maintain
	builder *table.Builder // guarded by the service
}

// homes are the vantages from the selector's own place, by protocol: the first is for any.
type homes struct {
	rules *rules
	by    [9]atomic.Pointer[vantage]
}

// homeOf is the place in homes of the vantage for a protocol.
func homeOf(p table.Protocols) int {
	if p == 0 {
		return 0
	}
	return 1 + bits.TrailingZeros8(uint8(p))
}

// each calls f with each vantage that there is.
func (h *homes) each(f func(*vantage)) {
	for i := range h.by {
		if v := h.by[i].Load(); v != nil {
			f(v)
		}
	}
}

// takeLocked makes the vantages that old has for other rules, with what those of old have
// learned.
func (h *homes) takeLocked(r *rules, s *subsetView, old *homes, build bool, generation uint64) {
	h.rules = r
	if old == nil {
		return
	}
	for i := range old.by {
		if before := old.by[i].Load(); before != nil {
			v := r.newVantage(s, nil, before.builder.Protocols, r.kind)
			v.builder.Inherit(before.builder)
			r.hintLocked(v)
			if build {
				v.renewLocked(generation)
			}
			h.by[i].Store(v)
		}
	}
}

// newVantage is for the selector's own place if from is nil, and for all instances if s is.
func (r *rules) newVantage(s *subsetView, from *topology.Location, p table.Protocols, kind table.Kind) *vantage {
	v := &vantage{rules: r, subset: s, kind: kind, home: from == nil, pickFlags: pickLive | pickBusy}
	switch kind {
	case table.KindP2C, table.KindLoadAware:
		v.pickFlags |= pickTimed
	case table.KindHash:
		v.pickFlags |= pickCounts
	}
	if s != nil {
		v.number = s.number
	}
	v.builder = table.NewBuilder(&r.svc.Shared, &r.Rules, table.Lens{From: from, Protocols: p, Subset: v.number, Kind: kind})
	return v
}

// hintLocked tells a vantage what other callers told of durations without load.
func (r *rules) hintLocked(v *vantage) {
	if v.subset != nil {
		return
	}
	for of, h := range r.svc.unloaded {
		if of.protocols == v.builder.Protocols {
			v.builder.Hint(of.circle, h.Duration, h.at)
		}
	}
}

// vantage returns the vantage for a request, made when it is first needed. to is where the
// request goes: nil stands for all instances.
func (r *rules) vantage(ask *Request, to *target) (*vantage, error) {
	kind, p := r.kind, table.ProtocolOf(ask.Protocol)
	if ask.Strategy != "" {
		var err error
		if kind, err = r.kindOf(ask); err != nil {
			return nil, err
		}
	}
	var s *subsetView
	if to != nil && to.expr != nil {
		s = r.svc.subsets.view(to.expr)
	}
	if ask.From == nil && kind == r.kind { // nearly always
		return r.homeVantage(s, p), nil
	}
	key := place{home: true, protocols: p, kind: kind, subset: s}
	if sel := r.svc.sel; ask.From != nil && *ask.From != sel.home.Location {
		if from := sel.fields.of(*ask.From); sel.alike == nil || from != *sel.alike {
			key.home, key.from = false, from
		}
	}
	if key.home && kind == r.kind {
		return r.homeVantage(s, p), nil
	}
	return r.otherVantage(key), nil
}

// homeVantage is from the selector's own place, by the service's own strategy.
func (r *rules) homeVantage(s *subsetView, p table.Protocols) *vantage {
	h := &r.homes
	if s != nil {
		h = s.homes.Load()
	}
	if h != nil && h.rules == r {
		if v := h.by[homeOf(p)].Load(); v != nil {
			return v
		}
	}
	svc := r.svc
	svc.mu.Lock()
	defer svc.mu.Unlock()
	r = svc.rules.Load() // those that hold now
	h = &r.homes
	if s != nil {
		if h = s.homes.Load(); h == nil || h.rules != r {
			h = &homes{rules: r}
			s.homes.Store(h)
		}
	}
	slot := &h.by[homeOf(p)]
	if v := slot.Load(); v != nil {
		return v
	}
	v := r.newVantage(s, nil, p, r.kind)
	r.hintLocked(v)
	slot.Store(v)
	return v
}

// otherVantage is one that is kept in a map.
func (r *rules) otherVantage(key place) *vantage {
	if v := (*r.vantages.Load())[key]; v != nil {
		v.use()
		return v
	}
	if key.kind == table.KindLoadAware {
		r.svc.listenOnce()
	}
	r.svc.mu.Lock()
	defer r.svc.mu.Unlock()
	old := *r.vantages.Load()
	if v := old[key]; v != nil {
		return v
	}
	from := &key.from
	if key.home {
		from = nil
	}
	v := r.newVantage(key.subset, from, key.protocols, key.kind)
	vantages := maps.Clone(old)
	if len(vantages) >= maxVantages { // places come from outside, and must not cost memory for ever
		delete(vantages, leastRecent(vantages))
	}
	v.use()
	vantages[key] = v
	r.vantages.Store(&vantages)
	return v
}

// use notes that a pick uses the vantage.
func (v *vantage) use() {
	if now := v.rules.svc.sel.clock.Load(); v.usedAt.Load() != now {
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

// current returns the table of a vantage, nil before the first snapshot and after the
// service was evicted. Tables for all instances from the selector's own place are built
// with every change, and those for subsets that were used lately. Others are built when
// they are next used.
func (v *vantage) current() *table.Table {
	t := v.table.Load()
	if t != nil && !v.stale.Load() {
		return t
	}
	svc := v.rules.svc
	svc.mu.Lock()
	defer svc.mu.Unlock()
	t = v.table.Load()
	switch {
	case !svc.known || svc.closed, t != nil && !v.stale.Load():
	case t != nil && (v.rules != svc.rules.Load() || v.subset != nil && v.subset.gone):
		// Another one has its place. Its last table does for this pick.
	case v.subset != nil && v.subset.gone:
		return nil
	default:
		t = v.renewLocked(svc.generation.Load())
	}
	return t
}

// roster is the members that the vantage is about.
func (v *vantage) roster() table.Roster {
	r := table.Roster{Members: v.rules.svc.members.list}
	if v.subset != nil {
		if r.Of = v.subset.of; r.Of == nil {
			r.Of = []int32{}
		}
	}
	return r
}

// renewLocked builds the table of a vantage anew.
func (v *vantage) renewLocked(generation uint64) *table.Table {
	svc := v.rules.svc
	t := v.builder.Build(v.roster(), svc.Now(), generation)
	svc.dueLocked(t.Due)
	v.table.Store(t)
	v.stale.Store(false)
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

func eachBit(set uint64, f func(bit int)) {
	for ; set != 0; set &= set - 1 {
		f(bits.TrailingZeros64(set))
	}
}
