package selector

import (
	"context"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
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

// service is all that is known of one service: its members, and a view for
// each place and protocol that was asked for.
type service struct {
	sel   *Selector
	name  string
	group string // of its paths: the name, and a number that tells it from an earlier watch of that name
	run   context.Context
	stop  context.CancelFunc

	kind    kind
	ending  uint8 // flags of its picks, see [Pick]
	plain   bool  // picks by name need nothing but the home table
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
	offset     uint64 // where this caller begins when it can only probe some

	mu       sync.Mutex // guards what follows, and the making of tables
	members  []member
	spare    []member        // the memory of the list before
	verdicts []verdict       // memory for making a table
	paths    []*latency.Path // memory for telling the prober
	look     bool            // breakers or distances have changed since the members were looked at
	stale    bool
	known    bool
	closed   bool
	built    time.Duration // when the home table was made, on the selector's clock
	timer    *time.Timer   // of a rebuild that waits; nil: none does
	gone     []uint64      // picks of nodes that left, by home circle
}

func newService(s *Selector, name string) *service {
	svc := &service{
		sel: s, name: name, group: name + "#" + strconv.FormatUint(s.watches.Add(1), 10), ready: make(chan struct{}), offset: rand.Uint64(),
		kind: kindOf(s.opts.Strategy), gone: make([]uint64, len(s.assumed)), budget: newBudget(s.opts.Budget),
	}
	svc.run, svc.stop = context.WithCancel(s.run)
	svc.asked.Store(int64(s.now()))
	svc.ending = pickLive
	switch svc.kind {
	case kindP2C:
		svc.ending |= pickLearns
	case kindHash:
		svc.ending |= pickCounts
	}
	svc.plain = svc.kind != kindHash && s.opts.OnPick == nil
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
	err := svc.sel.source.Watch(svc.run, svc.name, svc.apply)
	if err != nil && svc.run.Err() == nil {
		svc.sel.log.Error("the source of instances ended, the last view stays", "service", svc.name, "error", err)
	}
	<-svc.run.Done()
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
		svc.stale, svc.known = s.Stale, true
		svc.total.Store(int64(len(svc.members)))
		svc.rebuildLocked()
	}
	svc.mu.Unlock()
	// Not under the lock: a breaker waits for its hook, which takes it.
	for _, n := range gone {
		n.breaker.Close()
	}
	select {
	case <-svc.ready:
	default:
		close(svc.ready)
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
		if m.in == e.Instance && m.suspect == e.Suspect {
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
		if old[k].in != e.Instance || old[k].suspect != e.Suspect {
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
	*m = svc.member(e, n)
	return gone
}

// sameLocked says whether what was learned of an instance holds for what it is
// announced as now.
func (svc *service) sameLocked(n *node, before *member, now *events.Instance) bool {
	return before.in.Incarnation == now.Incarnation && addressOf(before.in) == addressOf(now) &&
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
			path:    svc.sel.prober.Path(addressOf(e.Instance)),
			home:    svc.homeCircle(e.Instance),
		}
	}
	n.instance.Store(e.Instance)
	n.setWeight(e.Weight)
	m := member{node: n, in: e.Instance, circle: n.home, suspect: e.Suspect, protocols: protocolsOf(e.Instance)}
	m.look()
	return m
}

// addressOf is where an instance is probed.
func addressOf(in *events.Instance) string {
	for _, p := range []string{events.TCP, events.HTTP, events.HTTPS, events.GRPC} {
		if a := in.Endpoints[p]; a != "" {
			return a
		}
	}
	return ""
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

// probeLocked tells the prober whom to measure: nearer circles first. Of a
// circle for which there is not enough room each caller takes another part,
// which hardly changes when an instance comes or goes.
func (svc *service) probeLocked() {
	var sizes [maxLevels + 1]int
	for i := range svc.members {
		if m := &svc.members[i]; m.in.Status != events.Draining {
			sizes[m.circle]++
		}
	}
	svc.paths = svc.paths[:0]
	for circle := range svc.sel.assumed {
		size, room := sizes[circle], svc.sel.opts.Latency.MaxPaths-len(svc.paths)
		if room <= 0 {
			break
		}
		first, _ := bits.Mul64(svc.offset, uint64(size))
		at := size - int(first) // how far behind the first, round the end
		for i := 0; i < len(svc.members) && size > 0; i++ {
			if m := &svc.members[i]; int(m.circle) == circle && m.in.Status != events.Draining {
				if at%size < room {
					svc.paths = append(svc.paths, m.path)
				}
				at++
			}
		}
	}
	svc.sel.prober.Probe(svc.group, svc.paths)
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
	svc.sel.prober.Probe(svc.group, nil)
	for i := range members {
		members[i].breaker.Close()
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
		c := t.count(uint8(i), svc.sel.opts.Levels.Name(i))
		all[i] = CircleStats{Service: svc.name, Circle: c.Circle, Picks: svc.gone[i], Instances: c.Total, Usable: c.Usable, Stale: svc.stale}
	}
	for i := range svc.members {
		m := &svc.members[i]
		all[m.circle].Picks += m.picks()
		all[m.circle].InFlight += int(m.inFlight())
	}
	return all
}
