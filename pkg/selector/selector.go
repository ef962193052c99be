package selector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Names that come from outside must not cost memory for ever.
const (
	maxEmpty   = 128     // services without instances that are watched although no pick waits for them
	maxWaiting = 1024    // with those that a pick waits for
	maxUnknown = 1 << 14 // names that are remembered as unknown, although they are not watched
)

// Selector picks instances of any number of services. It is safe for concurrent use.
// Make one per process and keep it: it holds what was learned about instances. Where a
// process makes several, they share that, see [New].
type Selector struct {
	*core
	detour   atomic.Bool     // picks by name need more than the fast vantage of a service
	shut     atomic.Bool     // Close was called
	strategy Strategy        // as Options state it
	apart    bool            // the core was opened with another strategy
	onPick   func(Pick)      // nil: none
	live     context.Context // ends with Close
	end      context.CancelFunc
	copies   sync.WaitGroup // calls that [Selector.Mirror] makes
	left     sync.Once
}

// New starts a selector. ctx bounds the opening of the registry only. nc stays the
// caller's and is not closed. It may be nil if [Options.Source] is set: then no beats
// are received, and nothing is probed through NATS.
//
// Selectors of one process share what they watch, measure and learn (the lists of
// instances, probes and their budget, calls in flight, durations, breakers, retry budgets)
// if they have the same nc, either the same *kv.Registry as Source or none, and the same
// Options but for Strategy, OnPick and Logger. Functions, [Probe.TLS] and [Probe.Bus] must be
// the same values: copy the Options for that. What they share is opened with the first of
// them, logs as that says, and ends when the last one is closed.
func New(ctx context.Context, nc *nats.Conn, o Options) (*Selector, error) {
	given := o
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Location == (topology.Location{}) {
		o.Location = topology.Here(ctx, o.Logger)
	}
	if o.Sockets != "" && o.Location.Host == "" {
		return nil, errors.New("selector: Sockets: want Location.Host too (PROXIMA_HOST): sockets are for callers on the same host")
	}
	if o.Location.Zone != "" && o.Location.Region == "" {
		o.Logger.Warn("the region is unknown: set it (--region, PROXIMA_REGION), else equally named zones of all regions count as near", "zone", o.Location.Zone)
	}
	c, err := join(ctx, nc, given, o)
	if err != nil {
		return nil, err
	}
	s := &Selector{core: c, strategy: given.Strategy, apart: given.Strategy != c.given.Strategy, onPick: o.OnPick}
	s.live, s.end = context.WithCancel(c.run)
	s.detour.Store(s.apart || s.onPick != nil)
	return s, nil
}

// times is n times a duration, the longest one if that is more.
func times(d time.Duration, n int) time.Duration {
	if n > 0 && d > math.MaxInt64/time.Duration(n) {
		return math.MaxInt64
	}
	return d * time.Duration(n)
}

// Location is where the selector is.
func (s *Selector) Location() topology.Location { return s.home.Location }

// Shares reports whether two selectors share what they know, so that their [Stats] are the
// same, see [New].
func (s *Selector) Shares(other *Selector) bool { return s.core == other.core }

// Close ends all watches and probes and waits for them, unless another selector shares
// them. Picks fail from then on with [ErrClosed]. It may be called twice, and always returns
// nil.
func (s *Selector) Close() (err error) {
	s.mu.Lock() // see Mirror
	s.shut.Store(true)
	s.detour.Store(true)
	s.mu.Unlock()
	s.end()
	s.copies.Wait()
	s.left.Do(func() { err = s.leave() })
	return err
}

// now is the selector's clock, see [table.Shared].
func (s *core) now() time.Duration { return time.Since(s.epoch) }

// maintain handles what changes with time alone, until the selector is closed: loads,
// new instances, circles that are about to change places.
func (s *core) maintain() {
	ticker := time.NewTicker(maintainEvery)
	defer ticker.Stop()
	periods := time.Duration(0)
	for {
		select {
		case <-s.run.Done():
			return
		case <-ticker.C:
		}
		now := s.now()
		s.clock.Store(int64(now))
		for _, svc := range *s.services.Load() {
			svc.maintain(now)
			if now/table.Period > periods {
				svc.giveUp(now)
			}
		}
		s.forgetUnused(now)
		periods = now / table.Period
	}
}

// service returns a service by name, and starts to watch it if it is not watched yet.
func (s *core) service(name string) (*service, error) {
	if svc := (*s.services.Load())[name]; svc != nil {
		return svc, nil
	}
	if err := events.ValidateService(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	old := *s.services.Load()
	if svc := old[name]; svc != nil {
		return svc, nil
	}
	if s.now() < s.unknown[name] {
		return nil, unknownService(name)
	}
	services := maps.Clone(old)
	if left := s.evictLocked(services); left >= maxWaiting {
		return nil, fmt.Errorf("%w, %d picks of other services wait too: nothing is known of service %q", ErrNoSnapshot, left, name)
	}
	svc := newService(s, name)
	services[name] = svc
	s.services.Store(&services)
	s.slot(name).CompareAndSwap(nil, svc)
	s.work.Go(svc.watch)
	if svc.rules.Load().kind == table.KindLoadAware {
		svc.listenOnce()
	}
	return svc, nil
}

// slot is the place of a service in recent, which it has if it came there first.
func (s *core) slot(name string) *atomic.Pointer[service] {
	n := uint(len(name))
	if n == 0 {
		return &s.recent[0]
	}
	return &s.recent[(n+uint(name[0])+uint(name[n-1])*3)%uint(len(s.recent))]
}

// evictLocked makes room for one more service without instances: it forgets those that
// were last asked for the longest ago. It returns how many are left.
func (s *core) evictLocked(services map[string]*service) int {
	var idle []*service
	empty := 0
	for _, svc := range services {
		if svc.Listed.Load() > 0 {
			continue
		}
		if empty++; svc.waiting.Load() == 0 {
			idle = append(idle, svc)
		}
	}
	if empty < maxEmpty {
		return empty
	}
	slices.SortFunc(idle, func(a, b *service) int { return cmp.Compare(a.lastAsked.Load(), b.lastAsked.Load()) })
	for _, svc := range idle[:min(len(idle), empty-maxEmpty+1)] {
		s.forgetLocked(services, svc)
		empty--
	}
	return empty
}

// forgetLocked ends the watch of a service without instances. For a moment it is
// remembered that it has none.
func (s *core) forgetLocked(services map[string]*service, svc *service) {
	delete(services, svc.name)
	s.slot(svc.name).CompareAndSwap(svc, nil)
	svc.stop()
	if svc.answered() && len(s.unknown) < maxUnknown {
		if s.unknown == nil {
			s.unknown = make(map[string]time.Duration)
		}
		s.unknown[svc.name] = s.now() + unknownFor
	}
}

// forgetUnused forgets the services that never had an instance and are not asked for, and
// the names that were remembered as unknown for long enough.
func (s *core) forgetUnused(now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.unknown, func(_ string, until time.Duration) bool { return until <= now })
	if len(s.unknown) == 0 {
		s.unknown = nil // a map that was large keeps its memory
	}
	old := *s.services.Load()
	services := old
	for _, svc := range old {
		if !svc.unused(now) {
			continue
		}
		if len(services) == len(old) {
			services = maps.Clone(old)
		}
		s.forgetLocked(services, svc)
	}
	if len(services) < len(old) {
		s.services.Store(&services)
	}
}

// service returns a service for a selector that is not closed.
func (s *Selector) service(name string) (*service, error) {
	if s.shut.Load() {
		return nil, ErrClosed
	}
	return s.core.service(name)
}

// Instances lists the instances of a service as this selector knows them now: one complete
// snapshot, ordered by [events.Instance.Compare], with those that are not picked too. It
// does not wait: of a service that was not asked for before, it is empty at first, and the
// selector begins to watch it. The instances are shared: do not change them.
func (s *Selector) Instances(service string) iter.Seq[events.Entry] {
	return func(yield func(events.Entry) bool) {
		svc, err := s.service(service)
		if err != nil {
			return
		}
		if heard := svc.snapshot.Load(); heard != nil {
			svc.lastAsked.Store(int64(svc.Now()))
			for _, e := range heard.Entries {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Watch yields the snapshot of a service when it is known, and again after every change,
// until ctx ends or the selector is closed. Snapshots are complete; a loop that is slow
// misses those in between, never the last one. A service that has no instance has an empty
// snapshot. There is none for what cannot be the name of a service.
func (s *Selector) Watch(ctx context.Context, service string) iter.Seq[events.Snapshot] {
	return func(yield func(events.Snapshot) bool) {
		var last *heardSnapshot
		ctx, end := context.WithCancel(ctx)
		defer end()
		defer context.AfterFunc(s.live, end)()
		for ctx.Err() == nil {
			svc, err := s.service(service)
			if errors.Is(err, ErrUnknownService) || errors.Is(err, ErrNoSnapshot) { // for a moment, as very many are asked for
				_ = sleep(ctx, waitEvery)
				continue
			}
			if err != nil {
				return
			}
			for svc.follow(ctx, &last) {
				if !yield(last.Snapshot) {
					return
				}
			}
		}
	}
}

// Ready waits until at least n instances of a service are usable, seen from here: up, not
// suspect, evacuated or of weight 0, and with a closed breaker. It is for the start of a
// program, and for tests. The error is that of ctx, with what is missing, or about the name.
func (s *Selector) Ready(ctx context.Context, service string, n int) error {
	for {
		usable := 0
		svc, err := s.service(service)
		switch {
		case errors.Is(err, ErrUnknownService) || errors.Is(err, ErrNoSnapshot):
		case err != nil:
			return err
		default:
			if t := svc.rules.Load().homes.by[0].Load().current(); t != nil {
				svc.lastAsked.Store(int64(svc.Now()))
				usable = t.Usable()
			}
			if usable >= n {
				return nil
			}
		}
		if err := sleep(ctx, waitEvery); err != nil {
			return fmt.Errorf("selector: %d of %d instances of %s are usable: %w", usable, n, service, err)
		}
	}
}

// Stats returns the counts that metrics show. It may be called at each scrape, and adds
// no cost to picks.
func (s *core) Stats() Stats {
	all := Stats{Latency: s.prober.Counts(), InvalidBeats: s.invalidBeats.count.Load()}
	services := *s.services.Load()
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if of, ok := services[name].stats(); ok {
			all.Services = append(all.Services, of)
		}
	}
	return all
}

// sinceStart returns a clock that starts at start and that later jumps of this
// process's wall clock do not move.
func sinceStart(start time.Time) func() time.Time {
	return func() time.Time { return start.Add(time.Since(start)) }
}

// Health reports whether the selector receives changes. While it does not, picks use the
// last known lists. Health sends no request, so it may be called at every readiness
// check.
func (s *core) Health() Health {
	h := Health{Err: s.unreachable()}
	for _, svc := range *s.services.Load() {
		svc.mu.Lock()
		known, stale, since := svc.known, svc.members.stale, svc.since
		svc.mu.Unlock()
		if !known {
			continue
		}
		h.Services++
		if stale && (!h.Stale || since.Before(h.StaleSince)) {
			h.Stale, h.StaleSince = true, since
		}
	}
	return h
}

// unreachable is why the source cannot be heard, nil if all is well.
func (s *core) unreachable() error {
	if r, ok := s.source.(*kv.Registry); ok {
		return r.Health().Err
	}
	if s.nc != nil && s.nc.IsClosed() {
		return fmt.Errorf("selector: %w", nats.ErrConnectionClosed)
	}
	return nil
}

// Explain returns what a pick would see now. It waits for the first snapshot as Pick
// does. The error for a service without instances is [ErrUnknownService].
func (s *Selector) Explain(ctx context.Context, r Request) (Explanation, error) {
	if err := r.checkFrom(); err != nil {
		return Explanation{}, err
	}
	svc, err := s.known(ctx, r.Service)
	if err != nil {
		return Explanation{}, err
	}
	ru := svc.rules.Load()
	s.state(ru, &r)
	to, err := ru.peek(&r)
	if err != nil {
		return Explanation{}, err
	}
	v, t, err := s.see(ctx, ru, &r, to)
	if err != nil {
		return Explanation{}, err
	}
	svc.markActive() // its distances are asked for
	if svc.Listed.Load() == 0 {
		return Explanation{}, v.noInstance(t, &r)
	}
	fellBack := false
	for next := to; next != nil && next.next != nil && !t.HasUsable(); {
		next = next.next
		other, instead, err := s.see(ctx, ru, &r, next)
		if err != nil {
			return Explanation{}, err
		}
		if instead.HasUsable() || t.Pickable() == 0 {
			v, t, fellBack = other, instead, true
		}
	}
	e := v.explain(r.Protocol)
	if to != nil {
		e.Where, e.Rule, e.FellBack = to.expr.String(), to.rule, fellBack
	}
	e.Policy, e.Bulkhead = ru.inUse(), ru.bulkheadInUse()
	if r.From != nil {
		e.From = r.From.String() // the vantage may be for several places
	}
	return e, nil
}
