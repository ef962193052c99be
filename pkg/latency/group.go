package latency

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Member is a path in a group, and what the group knows of its instance.
type Member struct {
	*Path
	// Circle is its proximity by location: 0 is the nearest.
	Circle uint8
	// Suspect is set while the registry does not know whether the instance
	// lives. An instance that becomes a suspect is probed at once, or within a
	// second when there are many suspects or other reporters, as far as the
	// budget goes. After a failure it is probed again a second later.
	Suspect bool
}

// Group is the paths of one service. Make one with [Prober.Group], and end it
// with [Group.Close]. All methods are safe for concurrent use.
type Group struct {
	prober   *Prober
	service  string
	onChange func()

	// What follows is guarded by prober.mu.

	members  []Member      // as given to Set
	ranked   []*Path       // in the order of the last ranking; some may have left since
	unranked bool          // something that the ranking depends on has changed
	changed  bool          // the members have changed since the last ranking
	rankedAt time.Duration // when the last ranking was

	tokens      float64       // probes that may be made now
	filledAt    time.Duration // when tokens were last added
	firstProbes float64       // first probes that were not held back
	nextUrgent  time.Duration // when a probe outside the slots may be made while tokens are few

	demand float64       // probes a second that slots would take if only its own budget counted
	used   bool          // see Used
	usedAt time.Duration // when the service was last called
	pace   pace

	dirty       bool          // onChange is due
	notifyAfter time.Duration // onChange is not called before
	best        []*Path       // the nearest of each circle, as last reported by onChange

	shared
}

// Set replaces the members of the group. The slice is not kept. Nil paths, paths of
// another prober, and paths that are in another group are ignored.
//
// It may be called after every change of a list, however often: its cost is that
// of the part that changed, and of a comparison. A goroutine of the prober ranks
// the members: at once, and for thousands of them after some seconds at most.
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
	if now := g.prober.now(); len(g.members) == 0 && g.publish < now {
		g.publish = now + jitter(batchInterval) // callers that see the first members together are not heard together
	}
	for _, m := range members[first:n] {
		g.joinLocked(m)
	}
	for _, m := range g.members[first:last] {
		g.leaveLocked(m.Path)
	}
	g.members = slices.Replace(g.members, first, last, members[first:n]...)
	g.unranked, g.changed = true, true
	if len(members) == 0 {
		g.firstProbes = 0 // the next members are a new list
	}
	wake(g.prober.wakeLoop) // it ranks: that takes too long for here
}

// Close ends the group: the prober stops probing its paths, and the other
// reporters learn that this caller has left. It may be called twice.
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
	if pa == nil || pa.prober != p || pa.group != nil && pa.group != g {
		return
	}
	if m.Suspect && !pa.suspect && pa.probed() {
		pa.urgent, pa.next = true, p.now()+g.doubtDelayLocked()
		p.queueProbeLocked(pa)
		if pa.cancel != nil {
			pa.cancel() // its failure would prove nothing: it began before
		}
	}
	pa.suspect = m.Suspect
	if pa.listed++; pa.listed > 1 {
		return
	}
	pa.group = g
	if g.byID != nil && pa.target.Key.ID != "" && !slices.Contains(g.byID[pa.target.Key.ID], pa) {
		g.indexLocked(pa)
		pa.refreshLocked(p.now())
	}
	if pa.notified > 0 {
		// Its distance changed while it was in no group: the caller may have read
		// an older one.
		p.dirtyLocked(g)
	}
}

// doubtDelayLocked is how long the first probe of a suspect waits. All callers
// suspect it at the same moment, and often many instances at once.
func (g *Group) doubtDelayLocked() time.Duration {
	if len(g.live) == 0 {
		return rand.N(time.Duration(min(len(g.members), 64))*firstProbeSpacing + 1)
	}
	return rand.N(retryPause)
}

func (g *Group) leaveLocked(pa *Path) {
	if !g.has(pa) {
		return
	}
	if pa.listed--; pa.listed > 0 {
		return
	}
	pa.group = nil
	g.unindexLocked(pa)
	pa.probe.remove()
	if pa.cancel != nil {
		pa.cancel()
	}
}

// has reports whether pa is in the group.
func (g *Group) has(pa *Path) bool { return pa != nil && pa.group == g }

// takeTokenLocked takes a token for a probe, or returns the time until there is
// one. No two minutes have more probes than twice the budget.
//
// While tokens are few, urgent probes (of paths that failed, that never answered,
// or that are doubtful) get every other token only, so that known distances stay
// fresh however many urgent probes there are. The first probes of a short list,
// of as many paths as the budget has probes in a minute, are not held back.
func (g *Group) takeTokenLocked(pa *Path, now time.Duration) (wait time.Duration) {
	rate, burst := g.rateLocked(), g.prober.o.burst()
	if rate <= 0 {
		return 0
	}
	g.tokens = min(g.tokens+rate*(now-g.filledAt).Seconds(), burst)
	g.filledAt = now
	if g.tokens < 1 {
		return time.Duration((1-g.tokens)/rate*float64(time.Second)) + time.Millisecond
	}
	if first := pa.urgent && pa.probedAt == 0 && g.firstProbes < g.prober.o.Budget; first {
		g.firstProbes++
	} else if pa.urgent {
		if wait := g.nextUrgent - now; wait > 0 && g.tokens < burst/2 {
			return wait
		}
		g.nextUrgent = now + time.Duration(2/rate*float64(time.Second))
	}
	g.tokens--
	return 0
}

// rateLocked is how many tokens the group gets in a second, 0 for no bound.
func (g *Group) rateLocked() float64 {
	rate, limit := g.prober.o.rate(), g.prober.total.limit
	if limit > 0 && (rate <= 0 || limit < rate) {
		return limit
	}
	return rate
}

// A group whose service is not called is measured less. After dozeAfter it dozes: it
// leaves the reporters of the zone, and measures each path dozeFactor times less often,
// unless it heard of another caller's measurement. It publishes what it measured in a
// batch marked Leaving: other reporters count its samples and give it no slots. So the
// callers that doze measure about as much together as one of them would alone, and those
// that are awake share their slots without it.
// After sleepAfter it measures nothing. It still hears what others measure.
type pace uint8

const (
	awake pace = iota
	dozing
	asleep
)

// dozeFactor is how much less often a group that dozes is measured.
const dozeFactor = 10

// rareFactor is how much less often a target is measured that is [Target.Rare].
const rareFactor = 8

// Used notes that the service of the group was called. A group is measured less from ten
// minutes after the last call on, and from an hour after it on not at all; at the next
// call what is not known any more is measured at once. A group for which Used was never
// called is always measured. It is cheap, but takes a lock: once a second is enough.
func (g *Group) Used() {
	p := g.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.groups[g] {
		return
	}
	now := p.now()
	g.used, g.usedAt = true, now
	if g.pace != awake {
		g.wakeLocked(now)
	}
}

// slowDownLocked lets a group doze or sleep that was not used for long.
func (g *Group) slowDownLocked(now time.Duration) {
	switch idle := now - g.usedAt; {
	case !g.used || idle < dozeAfter:
	case idle >= sleepAfter && g.pace != asleep:
		g.pace, g.news = asleep, false
		for _, pa := range g.ranked {
			pa.probe.remove()
		}
	case g.pace == awake:
		g.pace, g.listening = dozing, false
		g.unranked = true // the periods are others
	}
}

// wakeLocked measures the paths of which nothing was heard lately, at once.
func (g *Group) wakeLocked(now time.Duration) {
	p := g.prober
	g.pace, g.news, g.firstProbes = awake, false, 0
	g.unranked, g.changed = true, true
	g.publish = now + jitter(batchInterval)
	g.countLocked(now)
	g.listening = len(g.live) >= maxReporters && g.outrankedLocked() >= maxReporters
	for _, pa := range g.ranked {
		if !g.has(pa) || !pa.probed() || pa.cancel != nil {
			continue
		}
		if now-pa.newestLocked(now-2*p.o.Interval) < 2*p.o.Interval || g.listening {
			g.planLocked(pa, now)
			continue
		}
		pa.urgent, pa.probedAt = true, 0
		pa.next = now + g.firstDelayLocked(pa)
		p.queueProbeLocked(pa)
	}
	wake(p.wakeLoop)
}

// dozeEndLocked is when a path of a group that dozes is measured next: it depends on when
// it was measured last, and differs between callers, so that the first one's result comes
// before the others begin.
func (g *Group) dozeEndLocked(pa *Path, now time.Duration) time.Duration {
	every := pa.period / time.Duration(g.prober.o.PerInterval)
	last := max(pa.newestLocked(-every), pa.probedAt)
	return max(last, now-every) + every*7/10 + suppressionDelay(every*7/20)
}

// tellLocked makes the results of a group that dozes due, for others that doze.
func (g *Group) tellLocked(now time.Duration) {
	if g.report.Service == "" || g.news {
		return
	}
	g.news = true
	g.publish = now + rand.N(newsDelay/5)
	wake(g.prober.wakeLoop)
}

// dozingLocked is the batch of a group that does not report: its last one as a reporter,
// or what it has measured since.
func (g *Group) dozingLocked(now time.Duration) message {
	last := g.leavingLocked()
	if g.news {
		last.batch = g.samplesLocked(now)
		last.batch.Leaving = true
	}
	g.news = false
	return last
}
