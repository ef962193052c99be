package latency

import (
	"math/rand/v2"
	"slices"
	"time"
)

// group is what [Prober.Probe] was last told about a name. It is guarded by
// the prober's mutex.
type group struct {
	name   string
	paths  []*Path // as given
	probed []*Path // the first MaxPaths of them that have an address
	spare  []*Path // the last probed, for its memory

	dirty bool          // OnChange is due
	rest  time.Duration // no OnChange before, on the prober's clock
}

// Probe says which paths the group (a service) has now, best first. They
// replace those it had; nil ends the group. The first MaxPaths that have an
// address are probed, the others only remembered. The slice is not kept.
//
// It is meant to be called after every change of a list, however often: work is
// done only for the part of the list that changed, and for an equal list it is
// a comparison of pointers. Nil paths, and those of another prober, are
// ignored.
func (p *Prober) Probe(name string, paths []*Path) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	g := p.groups[name]
	if g == nil {
		if len(paths) == 0 {
			return
		}
		g = &group{name: name}
		p.groups[name] = g
	}

	first, last, n := difference(g.paths, paths)
	if first == last && first == n {
		return
	}
	for _, pa := range paths[first:n] {
		p.joinLocked(g, pa)
	}
	for _, pa := range g.paths[first:last] {
		p.leaveLocked(g, pa)
	}
	g.paths = slices.Replace(g.paths, first, last, paths[first:n]...)
	p.scheduleLocked(g)

	if len(paths) == 0 {
		delete(p.groups, name)
		p.dirty = slices.DeleteFunc(p.dirty, func(d *group) bool { return d == g })
	}
}

// difference finds where two lists differ: a[first:last] has become b[first:n].
func difference(a, b []*Path) (first, last, n int) {
	last, n = len(a), len(b)
	for first < last && first < n && a[first] == b[first] {
		first++
	}
	for last > first && n > first && a[last-1] == b[n-1] {
		last--
		n--
	}
	return first, last, n
}

// foreign reports whether pa is none of p's paths and is to be ignored.
func (p *Prober) foreign(pa *Path) bool { return pa == nil || pa.prober != p }

func (p *Prober) joinLocked(g *group, pa *Path) {
	if p.foreign(pa) {
		return
	}
	for i := range pa.groups {
		if pa.groups[i].group == g {
			pa.groups[i].n++
			return
		}
	}
	pa.groups = append(pa.groups, membership{g, 1})
	if pa.told > 0 {
		// It was measured while nobody was told: the group may have read its
		// distance too early.
		p.dirtyLocked(g)
	}
}

func (p *Prober) leaveLocked(g *group, pa *Path) {
	if p.foreign(pa) {
		return
	}
	i := slices.IndexFunc(pa.groups, func(m membership) bool { return m.group == g })
	if pa.groups[i].n--; pa.groups[i].n > 0 {
		return
	}
	pa.groups = slices.Delete(pa.groups, i, i+1)
	if len(pa.groups) == 0 && pa.cancel != nil {
		pa.cancel()
	}
}

// scheduleLocked makes the first MaxPaths of g the ones that are probed for it.
func (p *Prober) scheduleLocked(g *group) {
	probed := g.spare[:0]
	for _, pa := range g.paths {
		if len(probed) == p.o.MaxPaths {
			break
		}
		if !p.foreign(pa) && pa.address != "" {
			probed = append(probed, pa)
		}
	}
	if slices.Equal(probed, g.probed) {
		clear(probed)
		g.spare = probed[:0]
		return
	}

	now, fresh := p.now(), 0
	for _, pa := range probed {
		pa.slots++
		if pa.slots > 1 || pa.cancel != nil {
			continue
		}
		if pa.next == 0 {
			// Never probed: at once, but not all in the same instant, and the
			// best first.
			pa.next = now + rand.N(time.Duration(fresh)*step+1)
			fresh++
		}
		p.queueProbeLocked(pa)
	}
	for _, pa := range g.probed {
		pa.slots--
		if pa.slots == 0 {
			pa.probe.remove()
		}
	}
	clear(g.probed)
	g.probed, g.spare = probed, g.probed[:0]
}
