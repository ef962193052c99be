package selector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
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

	table.Shared
	ending  uint8 // flags of its picks, see [Pick]
	plain   bool  // picks by name need nothing but the home table
	breaker breaker.Settings

	home       *view                           // any protocol, from the selector's own place
	homes      [8]atomic.Pointer[view]         // one protocol, from there
	views      atomic.Pointer[map[place]*view] // from other places; replaced, never changed
	ready      chan struct{}                   // closed with the first snapshot
	generation atomic.Uint64                   // counts changes of what tables are made from
	asked      atomic.Int64                    // when an empty service was last asked for, on the selector's clock
	waiting    atomic.Int64                    // picks that wait for the first snapshot
	budget     budget
	active     atomic.Bool  // picked from since loads were last looked at
	loaded     atomic.Bool  // some load was found then
	due        atomic.Int64 // when time alone makes new tables, on the selector's clock

	mu      sync.Mutex // guards what follows, and the making of tables
	members members
	paths   []latency.Member // memory for telling the prober
	look    bool             // breakers or distances have changed since the members were looked at
	since   time.Time        // when the source was last heard, if it is stale
	known   bool
	closed  bool
	built   time.Duration // when the home table was made, on the selector's clock
	timer   *time.Timer   // of a rebuild that waits; nil: none does
}

func newService(s *Selector, name string) *service {
	o := &s.opts
	svc := &service{
		sel: s, name: name, ready: make(chan struct{}), budget: newBudget(o.Retry.Budget),
		Shared: table.Shared{
			Kind: table.KindOf(string(o.Strategy)), Levels: o.Levels, Origin: s.home, Assumed: s.assumed, Epoch: s.epoch, Offset: rand.Uint64(),
			NearSlack: o.Near.Slack, NearFactor: o.Near.Factor, LoadHigh: o.Spill.High, LoadLow: o.Spill.Low, RampUp: o.Ramp.Up,
		},
	}
	svc.members = members{svc: svc, gone: make([]uint64, len(s.assumed))}
	svc.group = s.prober.Group(name, svc.rebuildSoon)
	svc.run, svc.stop = context.WithCancel(s.run)
	svc.asked.Store(int64(s.now()))
	svc.due.Store(int64(table.Never))
	svc.ending = pickLive
	switch svc.Kind {
	case table.KindP2C, table.KindLoadAware:
		svc.ending |= pickLearns
	case table.KindHash:
		svc.ending |= pickCounts
	}
	svc.plain = svc.Kind != table.KindHash && s.opts.OnPick == nil
	svc.Spills = svc.Kind != table.KindHash && o.Spill.High >= 0
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
	gone, changed := svc.members.merge(s.Entries)
	if changed || s.Stale != svc.members.stale || !svc.known {
		if s.Stale != svc.members.stale {
			svc.members.doubt(s.Stale)
			svc.look = true
		}
		svc.since, svc.known = s.StaleSince, true
		svc.Listed.Store(int64(len(svc.members.list)))
		svc.rebuildLocked()
	}
	svc.mu.Unlock()
	// Not under the lock: a breaker waits for its hook, which takes it.
	for _, n := range gone {
		n.Close()
	}
	select {
	case <-svc.ready:
	default:
		close(svc.ready)
	}
}

// rebuildLocked makes the tables that are read often, now.
func (svc *service) rebuildLocked() {
	if svc.look {
		svc.look = false
		svc.members.look()
	}
	generation := svc.generation.Add(1)
	svc.built = svc.Now()
	svc.due.Store(int64(table.Never))
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
	wait := rebuildEvery - (svc.Now() - svc.built)
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

func (svc *service) tend(now time.Duration) {
	if svc.due.Load() <= int64(now) {
		svc.rebuildSoon()
	}
	if !svc.Spills || !svc.active.Swap(false) && !svc.loaded.Load() {
		return
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if svc.closed || !svc.known {
		return
	}
	loaded := svc.home.weighLocked()
	for i := range svc.homes {
		if v := svc.homes[i].Load(); v != nil {
			loaded = v.weighLocked() || loaded
		}
	}
	svc.loaded.Store(loaded)
}

// dueLocked asks for new tables at a time, unless they come before.
func (svc *service) dueLocked(at time.Duration) {
	if int64(at) < svc.due.Load() {
		svc.due.Store(int64(at))
	}
}

// await waits for the first snapshot, or until the service is forgotten.
func (svc *service) await(ctx context.Context) error {
	svc.waiting.Add(1)
	defer svc.waiting.Add(-1)
	svc.asked.Store(int64(svc.Now()))
	select {
	case <-svc.ready:
	case <-svc.run.Done():
	case <-ctx.Done():
		return fmt.Errorf("%w, nothing is known of service %q: %w", ErrNoSnapshot, svc.name, ctx.Err())
	}
	return nil
}

// seen notes that there are calls.
func (svc *service) seen() {
	if !svc.active.Load() {
		svc.active.Store(true)
	}
}
