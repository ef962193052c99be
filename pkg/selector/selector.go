package selector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
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
// Make one per process and keep it: it holds what was learned about instances.
type Selector struct {
	opts    Options
	given   Options // as New got them, without defaults
	source  Source
	home    topology.Place
	fields  fields             // of locations, that are levels
	alike   *topology.Location // the fields of home: callers there see what the selector sees; nil: unless they have its labels
	epoch   time.Time          // when the selector's clock was 0
	prober  *latency.Prober
	measure measuring
	log     *slog.Logger

	run  context.Context // ends with Close
	stop context.CancelFunc
	work sync.WaitGroup

	nc           *nats.Conn // nil: no beats, no probes through NATS
	subject      string     // of beats and pings: <bucket>.
	invalidBeats invalid

	clock    atomic.Int64                        // the last look of maintain, on the selector's clock
	services atomic.Pointer[map[string]*service] // replaced, never changed
	mirrors  mirrors
	recent   [16]atomic.Pointer[service] // by slot, so that most picks need no map

	mu      sync.Mutex // guards the making of a new map, and what follows
	closed  bool
	unknown map[string]time.Duration // until when a name is remembered as unknown, on the selector's clock
}

// New starts a selector. ctx bounds the opening of the registry only. nc stays the
// caller's and is not closed. It may be nil if [Options.Source] is set: then no beats
// are received, and nothing is probed through NATS.
func New(ctx context.Context, nc *nats.Conn, o Options) (*Selector, error) {
	given := o
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Location == (topology.Location{}) {
		o.Location = topology.Here(ctx, o.Logger)
	}
	if o.Location.Zone != "" && o.Location.Region == "" {
		o.Logger.Warn("the region is unknown: set it (--region, PROXIMA_REGION), else equally named zones of all regions count as near", "zone", o.Location.Zone)
	}
	s := &Selector{
		opts: o, given: given, source: o.Source, log: o.Logger,
		home:   topology.Place{Location: o.Location, Labels: o.Labels},
		epoch:  time.Now(),
		fields: fieldsOf(o.Levels),
	}
	if !slices.ContainsFunc(o.Levels, isLabel) && o.Levels.Circle(s.home, s.home) == 0 { // unknown is not a place
		alike := s.fields.of(s.home.Location)
		s.alike = &alike
	}
	if s.source == nil {
		if s.source, err = kv.Open(ctx, nc, o.Registry); err != nil {
			return nil, fmt.Errorf("selector: %w", err)
		}
	}
	if r, ok := s.source.(*kv.Registry); ok {
		if s.opts.Probe.Bus == nil {
			s.opts.Probe.Bus = r.Bus()
		}
		if s.opts.Ramp.Now == nil {
			s.opts.Ramp.Now = r.Now
		}
	}
	if s.opts.Ramp.Now == nil {
		s.opts.Ramp.Now = sinceStart(s.epoch)
	}
	s.nc, s.subject = nc, o.Registry.Bucket+"."
	s.measure = measuring{Probe: o.Probe, dial: o.Latency.Dial, nc: nc, subject: s.subject}
	s.prober = latency.New(latency.Caller{Location: o.Location, Bus: s.opts.Probe.Bus, Logger: o.Logger}, o.Latency)
	s.services.Store(&map[string]*service{})
	s.run, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.work.Go(s.maintain)
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

// Close ends all watches and probes and waits for them. Picks fail from then
// on with [ErrClosed]. It may be called twice, and always returns nil.
func (s *Selector) Close() error {
	s.mu.Lock()
	s.closed = true
	s.services.Store(&map[string]*service{})
	for i := range s.recent {
		s.recent[i].Store(nil)
	}
	s.mu.Unlock()
	s.stop()
	s.work.Wait()
	return s.prober.Close()
}

// now is the selector's clock, see [table.Shared].
func (s *Selector) now() time.Duration { return time.Since(s.epoch) }

// maintain handles what changes with time alone, until the selector is closed: loads,
// new instances, circles that are about to change places.
func (s *Selector) maintain() {
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
func (s *Selector) service(name string) (*service, error) {
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
func (s *Selector) slot(name string) *atomic.Pointer[service] {
	n := uint(len(name))
	if n == 0 {
		return &s.recent[0]
	}
	return &s.recent[(n+uint(name[0])+uint(name[n-1])*3)%uint(len(s.recent))]
}

// evictLocked makes room for one more service without instances: it forgets those that
// were last asked for the longest ago. It returns how many are left.
func (s *Selector) evictLocked(services map[string]*service) int {
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
func (s *Selector) forgetLocked(services map[string]*service, svc *service) {
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
func (s *Selector) forgetUnused(now time.Duration) {
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
func (s *Selector) Stats() Stats {
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
func (s *Selector) Health() Health {
	var h Health
	if r, ok := s.source.(*kv.Registry); ok {
		h.Err = r.Health().Err
	} else if s.nc != nil && s.nc.IsClosed() {
		h.Err = fmt.Errorf("selector: %w", nats.ErrConnectionClosed)
	}
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
