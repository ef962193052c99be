package selector

import (
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// members is the list of the instances of a service, ordered by key, with what was
// learned about each. It is guarded by the service.
type members struct {
	svc       *service
	list      []table.Member
	spare     []table.Member // the memory of the list before
	stale     bool           // the registry is out of reach
	leftPicks []uint64       // picks of nodes that left, by home circle
	touched   uint64         // subsets that have changed since the last table, as bits
	moved     bool           // subsets have other members, or members stand at other places, since then
	succeeded []uint64       // successes that stats have shown, by home circle
}

// refresh reads breakers and distances again.
func (ms *members) refresh() {
	for i := range ms.list {
		ms.list[i].Refresh(ms.stale)
	}
}

// setStale is for when the registry gets out of reach, or is back. While it is out of
// reach it reports no death, so failed probes count from then on.
func (ms *members) setStale(stale bool) {
	ms.stale = stale
	for i := range ms.list {
		if m := &ms.list[i]; stale && !m.Suspect {
			m.DiscountFailures()
		}
	}
}

// merge makes the list that of a snapshot, and keeps what was learned about the
// instances that stay. Both lists are ordered by key, so it walks them together: in
// place as long as they have the same instances, most often to the end. It returns the
// nodes of those that left, to be closed without a lock.
func (ms *members) merge(entries []events.Entry) (left []*table.Node, changed bool) {
	members := ms.list
	i := 0
	for ; i < len(entries) && i < len(members); i++ {
		m, e := &members[i], &entries[i]
		if m.In == e.Instance && m.Suspect == e.Suspect && m.Evacuated == e.Evacuated {
			continue
		}
		if m.In != e.Instance && m.In.Compare(e.Instance) != 0 {
			break
		}
		n := ms.update(m, *e)
		if n != nil {
			left = append(left, n)
		}
		changed = true
	}
	if i == len(entries) && i == len(members) {
		return left, changed
	}

	if byKey := func(a, b events.Entry) int { return a.Compare(b.Instance) }; !slices.IsSortedFunc(entries[max(i-1, 0):], byKey) {
		entries, i = slices.Clone(entries), 0 // the source should have sorted them
		slices.SortStableFunc(entries, byKey)
	}
	ms.moved = true
	was := len(members)
	old := append(ms.spare[:0], members[i:]...)
	members = members[:i]
	k := 0
	for _, e := range entries[i:] {
		for ; k < len(old) && old[k].In != e.Instance && old[k].In.Compare(e.Instance) < 0; k++ {
			left = append(left, ms.retire(&old[k]))
		}
		if k == len(old) || old[k].In != e.Instance && old[k].In.Compare(e.Instance) != 0 {
			members = append(members, ms.member(e, nil))
			continue
		}
		if old[k].In != e.Instance || old[k].Suspect != e.Suspect || old[k].Evacuated != e.Evacuated {
			if n := ms.update(&old[k], e); n != nil {
				left = append(left, n)
			}
		}
		members = append(members, old[k])
		k++
	}
	for ; k < len(old); k++ {
		left = append(left, ms.retire(&old[k]))
	}
	// Keep no reference to instances that left.
	clear(old)
	if len(members) < was {
		clear(members[len(members):was])
	}
	ms.list, ms.spare = members, old
	return left, true
}

// update makes m the member for a new entry of the same key. It returns the old node if
// what was learned does not hold for the new entry.
func (ms *members) update(m *table.Member, e events.Entry) (left *table.Node) {
	n := m.Node
	ms.touched |= m.Subsets
	if m.In != e.Instance && !ms.sameInstance(n, m, e.Instance) {
		left, n = ms.retire(m), nil
	}
	before := *m
	*m = ms.member(e, n)
	ms.moved = ms.moved || m.Subsets != before.Subsets
	if n != nil && (before.Suspect || ms.stale) {
		m.DiscountedFailures = before.DiscountedFailures
		m.Refresh(ms.stale)
	}
	switch {
	case before.In.Status == events.NotReady && m.In.Status == events.Up, before.Evacuated && !m.Evacuated:
		m.Born = ms.svc.Now() // usable again
	case n != nil && m.In.Started.Equal(before.In.Started):
		m.Born = before.Born
	}
	return left
}

// sameInstance reports whether what was learned of an instance holds for its new record.
func (ms *members) sameInstance(n *table.Node, before *table.Member, now *events.Instance) bool {
	return before.In.Incarnation == now.Incarnation && addressOf(before.In) == addressOf(now) &&
		before.In.Metadata[ProbeKey] == now.Metadata[ProbeKey] && // a path is measured in one way
		n.Home() == ms.homeCircle(now)
}

// homeCircle is the circle of an instance, seen from the selector's own place.
func (ms *members) homeCircle(in *events.Instance) uint8 {
	return ms.svc.Layout().Circle(ms.svc.Origin, in.Place())
}

// member returns the member for an entry. n is what was learned of the instance, nil if
// it is new.
func (ms *members) member(e events.Entry, n *table.Node) table.Member {
	fresh, r := n == nil, ms.svc.rules.Load()
	if fresh {
		n = &table.Node{
			Shared:  &ms.svc.Shared,
			Breaker: breaker.New(breaker.Key{Service: ms.svc.name, Instance: e.ID, Incarnation: e.Incarnation}, r.breaker),
			Path:    ms.svc.sel.prober.Path(ms.svc.sel.measure.target(e.Instance, r.probe)),
		}
		n.SetHome(ms.homeCircle(e.Instance))
	}
	born := ms.born(e.Instance)
	if fresh && ms.svc.known && !e.Suspect {
		born = ms.svc.Now() // it was not listed before, so it was not usable
	}
	m := table.NewMember(n, e, born, ms.stale)
	m.Subsets = ms.svc.subsets.of(e.Instance)
	ms.touched |= m.Subsets
	return m
}

// relay puts what was counted, and the members, into the circles of another layout.
func (ms *members) relay(old, now *table.Layout) {
	circles := len(now.Assumed)
	picks, succeeded := make([]uint64, circles), make([]uint64, circles)
	for i := range old.Assumed {
		to := now.Index(old.Name(uint8(i)))
		picks[to] += ms.leftPicks[i]
		succeeded[to] += ms.succeeded[i]
	}
	ms.leftPicks, ms.succeeded = picks, succeeded
	for i := range ms.list {
		m := &ms.list[i]
		m.Circle = ms.homeCircle(m.In)
		m.SetHome(m.Circle)
	}
}

// retire returns the node of an instance that left, and keeps what it has counted.
func (ms *members) retire(m *table.Member) *table.Node {
	ms.touched |= m.Subsets
	ms.leftPicks[m.Circle] += m.Picks()
	return m.Node
}

// born is when an instance started, on the selector's clock, as its record states: so a
// new caller does not take old instances for new. A start in the future is now.
func (ms *members) born(in *events.Instance) time.Duration {
	if in.Started.IsZero() {
		return table.LongAgo
	}
	age := max(0, ms.svc.sel.opts.Ramp.Now().Sub(in.Started))
	if age >= ms.svc.rules.Load().RampUp {
		return table.LongAgo
	}
	return ms.svc.Now() - age
}
