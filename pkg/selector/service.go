package selector

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// service is one service: its members, and the rules by which they are picked, with a
// vantage for each place, protocol and subset that was asked for.
type service struct {
	sel   *core
	name  string
	group *latency.Group // of its paths
	run   context.Context
	stop  context.CancelFunc

	table.Shared
	fast    atomic.Pointer[vantage] // that picks by name need, nil if they need more
	rules   atomic.Pointer[rules]
	subsets subsets

	first                    chan struct{}                 // closed with the first snapshot
	snapshot                 atomic.Pointer[heardSnapshot] // the last one
	generation               atomic.Uint64                 // counts changes of what tables are built from
	lastAsked                atomic.Int64                  // when a pick last found it empty, on the selector's clock
	waiting                  atomic.Int64                  // picks that wait for the first snapshot
	listening                atomic.Bool                   // to beats
	listed                   atomic.Bool                   // the first snapshot has come, and the service was not evicted since
	budget                   budget
	retries                  atomic.Uint64 // attempts after the first one of a call
	refused                  atomic.Uint64 // retries that the budget did not allow
	active                   atomic.Bool   // picked from since the last look of maintain
	loaded                   atomic.Bool   // there were calls lately
	due                      atomic.Int64  // when a new table must be built though nothing else changes
	had                      atomic.Bool   // it has had an instance
	hedges                   atomic.Uint64 // second attempts beside the first
	mirrored, mirrorsDropped atomic.Uint64
	places                   places
	usedAt                   time.Duration // when its group last learned that it is called; only of maintain
	toldAt                   time.Duration // when its group was last told durations without load; only of maintain

	mu      sync.Mutex // guards what follows, and the building of tables
	members members
	paths   []latency.Member // memory for the prober's list
	refresh bool             // breakers or distances have changed since the last table
	since   time.Time        // when the source was last heard, if it is stale
	known   bool             // the first snapshot has come
	forgot  bool             // calls that were never ended have been logged
	closed  bool
	builtAt time.Duration // when the home table was built, on the selector's clock
	timer   *time.Timer   // of a rebuild that waits; nil: none does

	unloaded map[unloaded]heard // what other callers of the zone told
}

// heardSnapshot is a snapshot as it came from the source.
type heardSnapshot struct {
	events.Snapshot
	next chan struct{} // closed when there is another one
}

// unloaded is what the duration of calls without load is of.
type unloaded struct {
	circle    uint8
	protocols table.Protocols
}

// heard is such a duration as other callers told it.
type heard struct {
	time.Duration
	at time.Duration // on the selector's clock
}

func newService(s *core, name string) *service {
	svc := &service{
		sel: s, name: name, first: make(chan struct{}), budget: newBudget(),
		Shared: table.Shared{
			Origin: s.home, Epoch: s.epoch, Offset: rand.Uint64(), Sockets: s.opts.Sockets,
			Classify: func(err error) uint8 { return uint8(s.classify(err)) }, Lives: s.measure.lives,
		},
	}
	svc.SetLayout(table.NewLayout(s.opts.Levels, s.opts.Spill.Regions))
	svc.places.svc, svc.places.whole.Shared, svc.Freed = svc, &svc.Shared, svc.places.freed
	circles := len(svc.Layout().Assumed)
	svc.members = members{svc: svc, leftPicks: make([]uint64, circles), succeeded: make([]uint64, circles)}
	svc.group = s.prober.Group(name, svc.rebuildSoon)
	svc.group.Used()
	svc.group.OnUnloaded(svc.hearUnloaded)
	svc.unloaded = make(map[unloaded]heard)
	svc.run, svc.stop = context.WithCancel(s.run)
	svc.lastAsked.Store(int64(s.now()))
	svc.due.Store(int64(table.Never))
	svc.subsets.svc = svc
	svc.subsets.texts.Store(&map[string]*spelled{})
	r := svc.codeRules()
	svc.rules.Store(r)
	svc.fast.Store(r.fastVantage())
	return svc
}

// watch follows the source until the service is stopped.
func (svc *service) watch() {
	defer svc.close()
	svc.join()
	err := svc.sel.source.Watch(svc.run, svc.name, svc.apply)
	if err != nil && svc.run.Err() == nil {
		svc.sel.log.Error("the source of instances has ended, its last list is used from now on", "service", svc.name, "error", err)
	}
	<-svc.run.Done()
}

// join joins what the callers of this zone share about the service, so that the first table
// uses it, and follows the policies of the source. It delays the first pick by policyWait
// at most.
func (svc *service) join() {
	ctx, cancel := context.WithTimeout(svc.run, sharingWait)
	defer cancel()
	var both sync.WaitGroup
	both.Go(svc.joinPolicies)
	if err := svc.group.Share(ctx); err != nil {
		svc.sel.log.Warn("cannot read what other callers of the zone have measured", "service", svc.name, "error", err)
	}
	both.Wait()
}

// apply makes a snapshot of the source the list of members.
func (svc *service) apply(s events.Snapshot) {
	svc.mu.Lock()
	if svc.closed {
		svc.mu.Unlock()
		return
	}
	before := svc.snapshot.Swap(&heardSnapshot{s, make(chan struct{})})
	left, changed := svc.members.merge(s.Entries)
	if changed || s.Stale != svc.members.stale || !svc.known {
		if s.Stale != svc.members.stale {
			svc.members.setStale(s.Stale)
			svc.refresh = true
		}
		svc.since, svc.known = s.StaleSince, true
		svc.Listed.Store(int64(len(svc.members.list)))
		if len(svc.members.list) > 0 {
			svc.had.Store(true)
		}
		svc.rebuildLocked()
		svc.listed.Store(true)
	}
	svc.mu.Unlock()
	if before != nil {
		close(before.next)
	}
	// Without the lock: closing a breaker waits for its hook, which takes the lock.
	for _, n := range left {
		n.Close()
	}
	if !svc.answered() {
		close(svc.first)
	}
}

// rebuildLocked builds the tables from the selector's own place: for all instances, and for
// subsets that have changed and were used lately. Others are built when they are next used.
func (svc *service) rebuildLocked() {
	ms := &svc.members
	if svc.refresh {
		svc.refresh = false
		ms.refresh()
		ms.touched = math.MaxUint64
	}
	if ms.moved {
		svc.subsets.index(ms.list)
	}
	touched := ms.touched
	ms.touched, ms.moved = 0, false
	generation := svc.generation.Add(1)
	svc.builtAt = svc.Now()
	svc.due.Store(int64(table.Never))
	svc.eachVantage(func(v *vantage) {
		switch {
		case !v.home || v.subset == nil && v.kind != v.rules.kind:
			v.stale.Store(true)
		case v.subset == nil:
			v.renewLocked(generation)
		case touched&v.subset.bit() == 0:
			if t := v.table.Load(); t != nil {
				svc.dueLocked(t.Due)
			}
		case v.subset.lately() && v.kind == v.rules.kind:
			v.renewLocked(generation)
		default:
			v.stale.Store(true)
		}
	})
	svc.places.queue.WakeAll() // more instances may be usable
	svc.probeLocked()
}

// eachVantage calls f with each vantage by the rules that hold.
func (svc *service) eachVantage(f func(*vantage)) {
	r := svc.rules.Load()
	r.homes.each(f)
	for _, s := range svc.subsets.views {
		if s == nil {
			continue
		}
		if h := s.homes.Load(); h != nil && h.rules == r {
			h.each(f)
		}
	}
	for _, v := range *r.vantages.Load() {
		f(v)
	}
}

// rebuildSoon builds new tables at once, or after rebuildEvery if the last ones are
// younger than that, so that many changes together do not cost a table each.
func (svc *service) rebuildSoon() {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	svc.refresh = true
	if svc.closed || !svc.known || svc.timer != nil {
		return
	}
	wait := rebuildEvery - (svc.Now() - svc.builtAt)
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

// probeLocked gives the prober the list of instances to measure.
func (svc *service) probeLocked() {
	svc.paths = svc.paths[:0]
	for i := range svc.members.list {
		if m := &svc.members.list[i]; m.State != table.Draining && m.State != table.DrainingOpen {
			svc.paths = append(svc.paths, latency.Member{Path: m.Path, Circle: m.Circle, Suspect: m.Suspect})
		}
	}
	svc.group.Set(svc.paths)
}

func (svc *service) close() {
	svc.stop()
	svc.mu.Lock()
	svc.closed = true
	svc.listed.Store(false)
	if svc.timer != nil && svc.timer.Stop() {
		svc.sel.work.Done()
	}
	list := svc.members.list
	svc.members.list = nil
	svc.mu.Unlock()
	svc.group.Close()
	for i := range list {
		list[i].Close()
	}
}

// maintain is called every maintainEvery.
func (svc *service) maintain(now time.Duration) {
	if svc.due.Load() <= int64(now) {
		svc.rebuildSoon()
	}
	if slowest := svc.Slowest.Load(); slowest > 0 {
		svc.Slowest.CompareAndSwap(slowest, int64(float64(slowest)*slowestFalls))
	}
	active := svc.active.Swap(false)
	if active && now-svc.usedAt >= tellEvery {
		svc.usedAt = now
		svc.group.Used()
	}
	if !active && !svc.loaded.Load() {
		return
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if svc.closed || !svc.known {
		return
	}
	idle := true
	svc.eachVantage(func(v *vantage) {
		if v.subset == nil || v.subset.lately() {
			idle = v.lookLocked(now) && idle
		}
	})
	svc.learnLocked()
	svc.places.limitLocked()
	svc.places.queue.WakeAll() // limits have moved, and calls have ended that began without any
	svc.loaded.Store(!idle)
	if now-svc.toldAt >= tellEvery {
		svc.toldAt = now
		svc.tellUnloadedLocked()
	}
}

// learnLocked takes in how long calls usually take, as the vantage from the selector's own
// place sees it that most calls came from: a subset that gets all calls may have none of the
// near set of all instances.
func (svc *service) learnLocked() {
	most := svc.rules.Load().homes.by[0].Load()
	t := most.table.Load()
	if t == nil {
		return
	}
	measured := most.builder.Measured(t)
	svc.eachVantage(func(v *vantage) {
		if of := v.table.Load(); of != nil && v.home && v.subset != nil && v.subset.lately() {
			if n := v.builder.Measured(of); n > measured {
				most, t, measured = v, of, n
			}
		}
	})
	most.builder.Learn(t)
	svc.eachVantage(func(v *vantage) {
		if v != most {
			v.builder.Skip()
		}
	})
}

// outer reports whether all callers of the selector's zone see the same instances in a
// circle, but for those that are nearer to one of them.
func (svc *service) outer(circle uint8) bool {
	levels := svc.sel.opts.Levels
	for _, l := range []topology.Level{topology.Zone, topology.Region} {
		if i := slices.Index(levels, l); i >= 0 {
			return int(circle) >= i
		}
	}
	return int(circle) >= len(levels)
}

// tellUnloadedLocked tells the other callers of the zone how long calls take without load.
// One that starts while a circle is overloaded cannot see it by itself.
func (svc *service) tellUnloadedLocked() {
	var list []latency.Unloaded
	l := svc.Layout()
	svc.rules.Load().homes.each(func(v *vantage) {
		protocol := v.builder.Protocols.Name()
		if v.builder.Protocols != 0 && protocol == "" {
			return // an endpoint with a name
		}
		for i := range l.Assumed {
			if d, ok := v.builder.Unloaded(uint8(i)); ok && svc.outer(uint8(i)) {
				list = append(list, latency.Unloaded{Circle: l.Name(uint8(i)), Protocol: protocol, Duration: d})
			}
		}
	})
	svc.group.TellUnloaded(list)
}

// hearUnloaded takes in what another caller of the zone told.
func (svc *service) hearUnloaded(list []latency.Unloaded) {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	now := svc.Now()
	l := svc.Layout()
	for _, u := range list {
		for i := range l.Assumed {
			of := unloaded{uint8(i), table.ProtocolOf(u.Protocol)}
			if l.Name(of.circle) != u.Circle || !svc.outer(of.circle) || of.protocols.Name() != u.Protocol {
				continue
			}
			if old, ok := svc.unloaded[of]; !ok || u.Duration <= old.Duration || now-old.at > unloadedLasts {
				svc.unloaded[of] = heard{u.Duration, now}
			}
			svc.rules.Load().homes.each(func(v *vantage) {
				if v.builder.Protocols == of.protocols {
					v.builder.Hint(of.circle, u.Duration, now)
				}
			})
		}
	}
}

// giveUp ends the load of calls whose end was forgotten, see [table.Node.GiveUp].
func (svc *service) giveUp(now time.Duration) {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	forgotten := int64(0)
	for i := range svc.members.list {
		m := &svc.members.list[i]
		n := m.GiveUp()
		m.Count(table.Forgotten, uint64(n))
		forgotten += n
	}
	svc.places.whole.GiveUp()
	if svc.Hashes.Load() {
		svc.AllInFlight[0].Add(-forgotten)
		svc.subsets.recount(svc.members.list)
	}
	svc.PeriodStart.Store(int64(now))
	if forgotten > 0 && !svc.forgot {
		svc.forgot = true
		svc.sel.log.Warn("calls have not ended for ten minutes and are no load any more: is Pick.Done forgotten, or the body of a response not closed?",
			"service", svc.name, "calls", forgotten)
	}
}

// dueLocked has new tables built at a time, if none is built before.
func (svc *service) dueLocked(at time.Duration) {
	if int64(at) < svc.due.Load() {
		svc.due.Store(int64(at))
	}
}

// await waits for the first snapshot, or until the service is forgotten. The error is that
// of ctx only if ctx has ended: late is the selector's own limit, not the caller's. shut is
// closed with the selector.
func (svc *service) await(ctx context.Context, shut <-chan struct{}, late <-chan time.Time) error {
	svc.waiting.Add(1)
	defer svc.waiting.Add(-1)
	svc.lastAsked.Store(int64(svc.Now()))
	select {
	case <-svc.first:
	case <-svc.run.Done():
	case <-shut:
	case <-ctx.Done():
		return svc.because(fmt.Errorf("%w, nothing is known of service %q: %w", ErrNoSnapshot, svc.name, ctx.Err()))
	case <-late:
		return svc.because(fmt.Errorf("%w after %v, nothing is known of service %q", ErrNoSnapshot, svc.sel.opts.FirstSnapshot, svc.name))
	}
	return nil
}

// because adds to an error why the registry cannot be read, as text: a time-out of the
// registry is not that of the caller's context.
func (svc *service) because(err error) error {
	if why := svc.sel.Health().Err; why != nil {
		return fmt.Errorf("%w: %s", err, why.Error())
	}
	return err
}

// follow waits for a snapshot other than the last one. It returns false if ctx ends or the
// service is forgotten.
func (svc *service) follow(ctx context.Context, last **heardSnapshot) bool {
	svc.waiting.Add(1) // it is not forgotten meanwhile
	defer svc.waiting.Add(-1)
	for {
		changed := svc.first
		switch heard := svc.snapshot.Load(); {
		case heard != nil && heard != *last:
			*last = heard
			return true
		case heard != nil:
			changed = heard.next
		}
		select {
		case <-changed:
		case <-svc.run.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// answered reports whether the first snapshot has come.
func (svc *service) answered() bool {
	select {
	case <-svc.first:
		return true
	default:
		return false
	}
}

// unused reports whether the service never had an instance, and was last asked for long
// ago. One that had instances is kept, with what its zone shares: it may be restarting.
func (svc *service) unused(now time.Duration) bool {
	return !svc.had.Load() && svc.waiting.Load() == 0 && now-time.Duration(svc.lastAsked.Load()) >= unusedFor && svc.answered()
}

// markActive notes that the service is picked from.
func (svc *service) markActive() {
	if !svc.active.Load() {
		svc.active.Store(true)
	}
}

// timed returns the start of a pick whose strategy needs no durations: exactly for some of
// those of an instance since the last look of maintain, so that overload is seen, else
// roughly, which takes less time.
func (svc *service) timed(n *table.Node, flags uint8) (time.Duration, uint8) {
	look := time.Duration(svc.sel.clock.Load())
	if n.Stale(table.Ticks(look)) {
		return svc.Now(), flags | pickTimed
	}
	return look, flags
}

// stats are not known before the first snapshot.
func (svc *service) stats() (ServiceStats, bool) {
	svc.mu.Lock()
	defer svc.mu.Unlock()
	t := svc.rules.Load().homes.by[0].Load().table.Load()
	if t == nil {
		return ServiceStats{}, false
	}
	s := ServiceStats{Service: svc.name, Stale: svc.members.stale, StaleSince: svc.since, Circles: make([]Circle, len(svc.Layout().Assumed))}
	for i := range s.Circles {
		c := circleOf(t, uint8(i))
		c.Picks, c.Share, c.Demoted = svc.members.leftPicks[i], t.Share(uint8(i)), t.Demoted(uint8(i))
		s.Circles[i] = c
	}
	for i := range svc.members.list {
		m := &svc.members.list[i]
		s.Circles[m.Circle].Picks += m.Picks()
		s.Circles[m.Circle].InFlight += int(m.InFlight())
		s.Circles[m.Circle].Limit += int(m.Limit())
		if m.Full() {
			s.Circles[m.Circle].Full++
		}
	}
	for i := range s.Circles {
		s.ForgottenCalls += svc.count(&s.Circles[i], i)
	}
	s.Rules = svc.subsets.stats()
	s.Mirrored, s.DroppedMirrors = svc.mirrored.Load(), svc.mirrorsDropped.Load()
	s.RefusedCalls, s.QueuedCalls, s.Waiting = svc.places.shed.Load(), svc.places.queued.Load(), svc.places.queue.Waiting()
	s.Retries, s.RefusedRetries, s.SlowAttempts, s.Hedges = svc.retries.Load(), svc.refused.Load(), svc.Slow.Load(), svc.hedges.Load()
	return s, true
}

// count fills in how the calls of a circle ended, and returns how many were forgotten.
func (svc *service) count(c *Circle, i int) (forgotten uint64) {
	counts := svc.Layout().Counts[i*int(table.NumCounts):][:table.NumCounts]
	forgotten = counts[table.Forgotten].Load()
	others := forgotten
	for o := table.Success + 1; o < table.NumOutcomes; o++ {
		c.Outcomes[o] = counts[o].Load()
		others += c.Outcomes[o]
	}
	// What has ended and was counted as nothing else. Calls end meanwhile: the number
	// must not fall for that.
	ended := c.Picks - min(c.Picks, uint64(c.InFlight)) // copies of calls are in flight too, and no picks
	before := &svc.members.succeeded[i]
	*before = max(*before, ended-min(ended, others))
	c.Outcomes[Success], c.BrokenAnswers = *before, counts[table.Broken].Load()
	for b := range c.Durations {
		d := &c.Durations[b]
		d.Calls, d.Total = svc.Layout().Durations[i].Load(b)
		c.TimedCalls += d.Calls
		c.TimedTotal += d.Total
	}
	return forgotten
}
