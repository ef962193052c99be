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
	svc   *service
	list  []table.Member
	spare []table.Member // the memory of the list before
	stale bool           // the registry is out of reach
	gone  []uint64       // picks of nodes that left, by home circle
}

// look sets what may have changed since the members were last looked at.
func (ms *members) look() {
	for i := range ms.list {
		ms.list[i].Refresh(ms.stale)
	}
}

// doubt is for when the registry goes out of reach, or is back: nobody
// tells any more who has died, so from now on failed probes do.
func (ms *members) doubt(stale bool) {
	ms.stale = stale
	for i := range ms.list {
		if m := &ms.list[i]; stale && !m.Suspect {
			m.DiscountFailures()
		}
	}
}

// merge makes the members those of a snapshot, keeping what was learned
// about the instances that stay. Both lists are ordered by key, so it walks them
// together: in place as long as they are in step, which is most often to the end.
func (ms *members) merge(entries []events.Entry) (gone []*table.Node, changed bool) {
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
		n := ms.renew(m, *e)
		if n != nil {
			gone = append(gone, n)
		}
		changed = true
	}
	if i == len(entries) && i == len(members) {
		return gone, changed
	}

	if byKey := func(a, b events.Entry) int { return a.Compare(b.Instance) }; !slices.IsSortedFunc(entries[max(i-1, 0):], byKey) {
		entries, i = slices.Clone(entries), 0 // a source that is not as careful as it should be
		slices.SortStableFunc(entries, byKey)
	}
	was := len(members)
	old := append(ms.spare[:0], members[i:]...)
	members = members[:i]
	k := 0
	for _, e := range entries[i:] {
		for ; k < len(old) && old[k].In != e.Instance && old[k].In.Compare(e.Instance) < 0; k++ {
			gone = append(gone, ms.retire(&old[k]))
		}
		if k == len(old) || old[k].In != e.Instance && old[k].In.Compare(e.Instance) != 0 {
			members = append(members, ms.member(e, nil))
			continue
		}
		if old[k].In != e.Instance || old[k].Suspect != e.Suspect || old[k].Evacuated != e.Evacuated {
			if n := ms.renew(&old[k], e); n != nil {
				gone = append(gone, n)
			}
		}
		members = append(members, old[k])
		k++
	}
	for ; k < len(old); k++ {
		gone = append(gone, ms.retire(&old[k]))
	}
	// Do not keep alive what has left.
	clear(old)
	if len(members) < was {
		clear(members[len(members):was])
	}
	ms.list, ms.spare = members, old
	return gone, true
}

// renew makes m what the source says of it now. It returns the node that
// has gone, if what was learned does not hold any more.
func (ms *members) renew(m *table.Member, e events.Entry) (gone *table.Node) {
	n := m.Node
	if m.In != e.Instance && !ms.same(n, m, e.Instance) {
		gone, n = ms.retire(m), nil
	}
	before := *m
	*m = ms.member(e, n)
	if n != nil && (before.Suspect || ms.stale) {
		m.DiscountedFailures = before.DiscountedFailures
		m.Refresh(ms.stale)
	}
	if n != nil && m.In.Started.Equal(before.In.Started) {
		m.Born = before.Born
	}
	return gone
}

// same says whether what was learned of an instance holds for what it is
// announced as now.
func (ms *members) same(n *table.Node, before *table.Member, now *events.Instance) bool {
	return before.In.Incarnation == now.Incarnation && addressOf(before.In) == addressOf(now) &&
		before.In.Metadata[ProbeKey] == now.Metadata[ProbeKey] && // how it is measured is the path's for good
		n.Home == ms.homeCircle(now)
}

func (ms *members) homeCircle(in *events.Instance) uint8 {
	return uint8(ms.svc.Levels.Circle(ms.svc.Origin, in.Place()))
}

func (ms *members) member(e events.Entry, n *table.Node) table.Member {
	if n == nil {
		n = &table.Node{
			Shared:  &ms.svc.Shared,
			Breaker: breaker.New(breaker.Key{Service: ms.svc.name, Instance: e.ID, Incarnation: e.Incarnation}, ms.svc.breaker),
			Path:    ms.svc.sel.prober.Path(ms.svc.sel.aim.target(e.Instance)),
			Home:    ms.homeCircle(e.Instance),
		}
	}
	return table.NewMember(n, e, ms.born(e.Instance), ms.stale)
}

func (ms *members) retire(m *table.Member) *table.Node {
	ms.gone[m.Circle] += m.Picks()
	return m.Node
}

// born is when an instance began, on the selector's clock. It goes by what the
// instance says, so that a caller that has just come does not take old ones for
// new; one that says it begins in the future begins now.
func (ms *members) born(in *events.Instance) time.Duration {
	if in.Started.IsZero() {
		return table.LongAgo
	}
	age := max(0, ms.svc.sel.opts.Ramp.Now().Sub(in.Started))
	if age >= ms.svc.RampUp {
		return table.LongAgo
	}
	return ms.svc.Now() - age
}
