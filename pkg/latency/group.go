package latency

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Member is a path in a group, with what the group knows of its instance.
type Member struct {
	*Path
	// Circle is the proximity by location, the nearest first.
	Circle uint8
	// Suspect says that nobody knows whether it lives. When it becomes one it
	// is probed at once, or within a second if there are many or if others in
	// the zone do the same, as far as the budget goes; after a failure again, a
	// second later.
	Suspect bool
}

// Group is the paths of one service. Make one with [Prober.Group], and end it
// with [Group.Close]. All methods are safe for concurrent use.
type Group struct {
	prober   *Prober
	service  string
	onChange func()

	// What follows is guarded by prober.mu.

	members  []Member // as given
	ranked   []*Path  // in the order of the last ranking; some may have left since
	unranked bool     // that has changed
	changed  bool     // the members have, since then
	rankedAt time.Duration

	tokens      float64 // probes that may be made now
	filledAt    time.Duration
	firstProbes float64       // first probes made without regard to that
	nextUrgent  time.Duration // when a probe outside the slots may be made though there are few tokens

	dirty       bool          // onChange is due
	notifyAfter time.Duration // no onChange before, on the prober's clock
	best        []*Path       // the nearest of each circle, when that was last told

	shared
}

// Set says which instances the group has now. They replace those it had. The
// slice is not kept.
//
// It is meant to be called after every change of a list, however often: work is
// done only for the part of the list that changed, and for an equal list it is
// a comparison. Their order follows on a goroutine of the prober: at once, for
// lists of thousands after some seconds at most. Nil paths, and those of another
// prober, are ignored.
func (g *Group) Set(members []Member) {
	p := g.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.groups[g] {
		g.setLocked(members)
	}
}

func (g *Group) setLocked(members []Member) {
	first, last, n := difference(g.members, members)
	if first == last && first == n {
		return
	}
	for _, m := range members[first:n] {
		g.joinLocked(m)
	}
	for _, m := range g.members[first:last] {
		g.leaveLocked(m.Path)
	}
	g.members = slices.Replace(g.members, first, last, members[first:n]...)
	g.unranked, g.changed = true, true
	wake(g.prober.wakeLoop) // ranking takes time, and nobody waits for it
}

// Close ends the group: its paths are not probed for it any more, and other
// reporters know that this caller has left. It may be called twice.
func (g *Group) Close() {
	p := g.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.groups[g] {
		return
	}
	g.setLocked(nil)
	delete(p.groups, g)
	p.dirty = slices.DeleteFunc(p.dirty, func(d *Group) bool { return d == g })
	if p.sharing[g.service] == g {
		delete(p.sharing, g.service)
	}
	p.closing = append(p.closing, g)
	wake(p.wakeLoop)
}

// difference finds where two lists differ: a[first:last] has become b[first:n].
func difference(a, b []Member) (first, last, n int) {
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

func (g *Group) joinLocked(m Member) {
	p := g.prober
	pa := m.Path
	if !p.owns(pa) {
		return
	}
	if m.Suspect && !pa.suspect && pa.probed() {
		pa.urgent, pa.next = true, p.now()+g.doubtDelayLocked()
		p.queueProbeLocked(pa)
		if pa.cancel != nil {
			pa.cancel() // it began before: its failure would prove nothing
		}
	}
	pa.suspect = m.Suspect
	for i := range pa.groups {
		if pa.groups[i].group == g {
			pa.groups[i].n++
			return
		}
	}
	pa.groups = append(pa.groups, membership{g, 1})
	if g.byID != nil && pa.target.Key.ID != "" && g.byID[pa.target.Key.ID] != pa {
		g.indexLocked(pa)
		pa.refreshLocked(p.now())
	}
	if pa.notified > 0 {
		// It was measured while nobody was told: the group may have read its
		// distance too early.
		p.dirtyLocked(g)
	}
}

// doubtDelayLocked is how long the first probe of a suspect waits. All callers
// come to suspect it at the same moment, and often it is one of many.
func (g *Group) doubtDelayLocked() time.Duration {
	if len(g.live) == 0 {
		return rand.N(time.Duration(min(len(g.members), 64))*firstProbeSpacing + 1)
	}
	return rand.N(retryPause)
}

func (g *Group) leaveLocked(pa *Path) {
	if !g.prober.owns(pa) {
		return
	}
	i := slices.IndexFunc(pa.groups, func(m membership) bool { return m.group == g })
	if pa.groups[i].n--; pa.groups[i].n > 0 {
		return
	}
	pa.groups = slices.Delete(pa.groups, i, i+1)
	g.unindexLocked(pa)
	if len(pa.groups) == 0 {
		pa.probe.remove()
		if pa.cancel != nil {
			pa.cancel()
		}
	}
}

// takeTokenLocked takes a token for a probe, or says how long until there is one.
// No two minutes have more probes than twice the budget. When tokens are few,
// those outside the slots (of paths that failed, never answered yet, or are
// doubted) get only every other: however many there are, what is known is
// measured again. The first probes of as many paths as the budget has for a
// minute are not held back: a short list is known retryPause.
func (g *Group) takeTokenLocked(pa *Path, now time.Duration) (wait time.Duration) {
	rate := g.prober.o.rate()
	if rate <= 0 {
		return 0
	}
	g.tokens = min(g.tokens+rate*(now-g.filledAt).Seconds(), g.prober.o.burst())
	g.filledAt = now
	if g.tokens < 1 {
		return time.Duration((1-g.tokens)/rate*float64(time.Second)) + time.Millisecond
	}
	if first := pa.urgent && pa.probedAt == 0 && g.firstProbes < g.prober.o.Budget; first {
		g.firstProbes++
	} else if pa.urgent {
		if wait := g.nextUrgent - now; wait > 0 && g.tokens < g.prober.o.burst()/2 {
			return wait
		}
		g.nextUrgent = now + time.Duration(2/rate*float64(time.Second))
	}
	g.tokens--
	return 0
}
