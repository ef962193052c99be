package selector

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// rebuildEvery is the least time between tables made for changes that picks
// notice by themselves.
const rebuildEvery = 20 * time.Millisecond

// firstSamples is how long the first table waits for what others measured.
const firstSamples = 250 * time.Millisecond

// service is all that is known of one service: its members, and a view for
// each place and protocol that was asked for.
type service struct {
	sel   *Selector
	name  string
	group *latency.Group // of its paths
	run   context.Context
	stop  context.CancelFunc

	kind    kind
	ending  uint8 // flags of its picks, see [Pick]
	plain   bool  // picks by name need nothing but the home table
	spills  bool  // load may make picks leave a circle
	breaker breaker.Settings

	home       *view                           // any protocol, from the selector's own place
	homes      [8]atomic.Pointer[view]         // one protocol, from there
	views      atomic.Pointer[map[place]*view] // from other places; replaced, never changed
	inFlight   atomic.Int64                    // calls, if the strategy needs that
	ready      chan struct{}                   // closed with the first snapshot
	total      atomic.Int64                    // instances listed
	generation atomic.Uint64                   // counts changes of what tables are made from
	asked      atomic.Int64                    // when an empty service was last asked for, on the selector's clock
	waiting    atomic.Int64                    // picks that wait for the first snapshot
	budget     budget
	offset     uint64       // where this caller begins when it takes some of many
	active     atomic.Bool  // picked from since loads were last looked at
	loaded     atomic.Bool  // some load was found then
	due        atomic.Int64 // when time alone makes new tables, on the selector's clock

	mu       sync.Mutex // guards what follows, and the making of tables
	members  []member
	spare    []member         // the memory of the list before
	verdicts []verdict        // memory for making a table
	paths    []latency.Member // memory for telling the prober
	look     bool             // breakers or distances have changed since the members were looked at
	stale    bool
	since    time.Time // when the source was last heard, if stale
	known    bool
	closed   bool
	built    time.Duration // when the home table was made, on the selector's clock
	timer    *time.Timer   // of a rebuild that waits; nil: none does
	gone     []uint64      // picks of nodes that left, by home circle
}

func newService(s *Selector, name string) *service {
	svc := &service{
		sel: s, name: name, ready: make(chan struct{}), offset: rand.Uint64(),
		kind: kindOf(s.opts.Strategy), gone: make([]uint64, len(s.assumed)), budget: newBudget(s.opts.Budget),
	}
	svc.group = s.prober.Group(name, svc.rebuildSoon)
	svc.run, svc.stop = context.WithCancel(s.run)
	svc.asked.Store(int64(s.now()))
	svc.due.Store(never)
	svc.ending = pickLive
	switch svc.kind {
	case kindP2C, kindLoadAware:
		svc.ending |= pickLearns
	case kindHash:
		svc.ending |= pickCounts
	}
	svc.plain = svc.kind != kindHash && s.opts.OnPick == nil
	svc.spills = svc.kind != kindHash && s.opts.LoadHigh >= 0
	svc.breaker = svc.breakerSettings()
	svc.home = svc.newView(nil, 0)
	svc.views.Store(&map[place]*view{})
	return svc
}

// breakerSettings are the user's with our hook in front of theirs.
func (svc *service) breakerSettings() breaker.Settings {
	set := svc.sel.opts.Breaker
	theirs := set.OnChange
	set.OnChange = func(k breaker.Key, from, to breaker.State) {
		svc.rebuildSoon()
		if theirs != nil {
			theirs(k, from, to)
		}
	}
	return set
}

// watch follows the source until the service is stopped.
func (svc *service) watch() {
	defer svc.close()
	svc.consult()
	err := svc.sel.source.Watch(svc.run, svc.name, svc.apply)
	if err != nil && svc.run.Err() == nil {
		svc.sel.log.Error("the source of instances ended, the last view stays", "service", svc.name, "error", err)
	}
	<-svc.run.Done()
}

// consult joins what the callers in our zone share about the service, so that the
// first table is made of that. It does not hold up the first pick for long.
func (svc *service) consult() {
	ctx, cancel := context.WithTimeout(svc.run, firstSamples)
	defer cancel()
	if err := svc.group.Share(ctx); err != nil {
		svc.sel.log.Warn("what other callers measure is not known", "service", svc.name, "error", err)
	}
}

// apply takes in a snapshot of the source.
func (svc *service) apply(s events.Snapshot) {
	svc.mu.Lock()
	if svc.closed {
		svc.mu.Unlock()
		return
	}
	gone, changed := svc.mergeLocked(s.Entries)
	if changed || s.Stale != svc.stale || !svc.known {
		if s.Stale != svc.stale {
			svc.doubtLocked(s.Stale)
		}
		svc.stale, svc.since, svc.known = s.Stale, s.StaleSince, true
		svc.total.Store(int64(len(svc.members)))
		svc.rebuildLocked()
	}
	svc.mu.Unlock()
	// Not under the lock: a breaker waits for its hook, which takes it.
	for _, n := range gone {
		n.close()
	}
	select {
	case <-svc.ready:
	default:
		close(svc.ready)
	}
}

// doubtLocked is for when the registry goes out of reach, or is back: nobody
// tells any more who has died, so from now on failed probes do.
func (svc *service) doubtLocked(stale bool) {
	svc.look = true
	for i := range svc.members {
		if m := &svc.members[i]; stale && !m.suspect {
			m.excused = int32(m.path.Failures())
		}
	}
}

// mergeLocked makes the members those of a snapshot, keeping what was learned
// about the instances that stay. Both lists are ordered by key, so it walks them
// together: in place as long as they are in step, which is most often to the end.
func (svc *service) mergeLocked(entries []events.Entry) (gone []*node, changed bool) {
	members := svc.members
	i := 0
	for ; i < len(entries) && i < len(members); i++ {
		m, e := &members[i], &entries[i]
		if m.in == e.Instance && m.suspect == e.Suspect && m.evacuated == e.Evacuated {
			continue
		}
		if m.in != e.Instance && m.in.Compare(e.Instance) != 0 {
			break
		}
		n := svc.renewLocked(m, *e)
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
	old := append(svc.spare[:0], members[i:]...)
	members = members[:i]
	k := 0
	for _, e := range entries[i:] {
		for ; k < len(old) && old[k].in != e.Instance && old[k].in.Compare(e.Instance) < 0; k++ {
			gone = append(gone, svc.retireLocked(&old[k]))
		}
		if k == len(old) || old[k].in != e.Instance && old[k].in.Compare(e.Instance) != 0 {
			members = append(members, svc.member(e, nil))
			continue
		}
		if old[k].in != e.Instance || old[k].suspect != e.Suspect || old[k].evacuated != e.Evacuated {
			if n := svc.renewLocked(&old[k], e); n != nil {
				gone = append(gone, n)
			}
		}
		members = append(members, old[k])
		k++
	}
	for ; k < len(old); k++ {
		gone = append(gone, svc.retireLocked(&old[k]))
	}
	// Do not keep alive what has left.
	clear(old)
	if len(members) < was {
		clear(members[len(members):was])
	}
	svc.members, svc.spare = members, old
	return gone, true
}

// renewLocked makes m what the source says of it now. It returns the node that
// has gone, if what was learned does not hold any more.
func (svc *service) renewLocked(m *member, e events.Entry) (gone *node) {
	n := m.node
	if m.in != e.Instance && !svc.sameLocked(n, m, e.Instance) {
		gone, n = svc.retireLocked(m), nil
	}
	before := *m
	*m = svc.member(e, n)
	if n != nil && (before.suspect || svc.stale) {
		m.excused = before.excused
		m.look()
	}
	if n != nil && m.in.Started.Equal(before.in.Started) {
		m.born = before.born
	}
	return gone
}

// sameLocked says whether what was learned of an instance holds for what it is
// announced as now.
func (svc *service) sameLocked(n *node, before *member, now *events.Instance) bool {
	return before.in.Incarnation == now.Incarnation && addressOf(before.in) == addressOf(now) &&
		before.in.Metadata[ProbeKey] == now.Metadata[ProbeKey] && // how it is measured is the path's for good
		n.home == svc.homeCircle(now)
}

func (svc *service) homeCircle(in *events.Instance) uint8 {
	return uint8(svc.sel.opts.Levels.Circle(svc.sel.home, in.Place()))
}

func (svc *service) member(e events.Entry, n *node) member {
	if n == nil {
		n = &node{
			svc:     svc,
			breaker: breaker.New(breaker.Key{Service: svc.name, Instance: e.ID, Incarnation: e.Incarnation}, svc.breaker),
			path:    svc.sel.prober.Path(svc.target(e.Instance)),
			home:    svc.homeCircle(e.Instance),
		}
	}
	if before := n.instance.Swap(e.Instance); before != nil && before.Coordinate != e.Coordinate {
		n.path.SetCoordinate(e.Coordinate)
	}
	n.setWeight(e.Weight)
	m := member{node: n, in: e.Instance, circle: n.home, suspect: e.Suspect, evacuated: e.Evacuated, protocols: protocolsOf(e.Instance), weight: weightOf(e.Instance), born: svc.born(e.Instance)}
	m.excused = int32(m.path.Failures())
	m.look()
	return m
}

func (svc *service) retireLocked(m *member) *node {
	svc.gone[m.circle] += m.picks()
	return m.node
}

// rebuildLocked makes the tables that are read often, now.
func (svc *service) rebuildLocked() {
	if svc.look {
		svc.look = false
		for i := range svc.members {
			svc.members[i].look()
		}
	}
	generation := svc.generation.Add(1)
	svc.built = svc.sel.now()
	svc.due.Store(never)
	svc.home.renewLocked(generation)
	for i := range svc.homes {
		if v := svc.homes[i].Load(); v != nil {
			v.renewLocked(generation)
		}
	}
	svc.probeLocked()
}

// rebuildSoon makes new tables at once if the last are not fresh, else a
// little later, so that a mass of changes does not cost a table each.
func (svc *service) rebuildSoon() {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	svc.look = true
	if svc.closed || !svc.known || svc.timer != nil {
		return
	}
	wait := rebuildEvery - (svc.sel.now() - svc.built)
	if wait <= 0 {
		svc.rebuildLocked()
		return
	}
	svc.sel.work.Add(1)
	svc.timer = time.AfterFunc(wait, func() {
		defer svc.sel.work.Done()
		svc.mu.Lock()
		defer svc.mu.Unlock()
		svc.timer = nil
		if !svc.closed {
			svc.rebuildLocked()
		}
	})
}

// probeLocked tells the prober whom to measure.
func (svc *service) probeLocked() {
	svc.paths = svc.paths[:0]
	for i := range svc.members {
		if m := &svc.members[i]; m.condition != draining && m.condition != leaving {
			svc.paths = append(svc.paths, latency.Member{Path: m.path, Circle: m.circle, Suspect: m.suspect})
		}
	}
	svc.group.Set(svc.paths)
}

func (svc *service) close() {
	svc.stop()
	svc.mu.Lock()
	svc.closed = true
	if svc.timer != nil && svc.timer.Stop() {
		svc.sel.work.Done()
	}
	members := svc.members
	svc.members = nil
	svc.mu.Unlock()
	svc.group.Close()
	for i := range members {
		members[i].close()
	}
}

func (svc *service) stats() []CircleStats {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	t := svc.home.table.Load()
	if t == nil {
		return nil
	}
	all := make([]CircleStats, t.levels)
	for i := range all {
		c := t.census(uint8(i), svc.sel.opts.Levels.Name(i))
		all[i] = CircleStats{
			Service: svc.name, Circle: c.Circle, Picks: svc.gone[i], Instances: c.Total, Usable: c.Usable, Evacuated: c.Evacuated, Suspect: c.Suspect, Dead: c.Dead,
			Stale: svc.stale, StaleSince: svc.since,
			Share: t.share(uint8(i)), Demoted: t.demoted(uint8(i)),
		}
	}
	for i := range svc.members {
		m := &svc.members[i]
		all[m.circle].Picks += m.picks()
		all[m.circle].InFlight += int(m.inFlight())
	}
	return all
}
