package selector

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// core is what selectors share, of which each is a handle: services, with what was learned
// about their instances, and the prober.
type core struct {
	joint   joint
	common  Options       // of its selectors
	ready   chan struct{} // closed when it is open, or could not be opened
	failed  bool          // it could not; set before ready is closed
	handles int           // guarded by cores

	opts    Options
	given   Options // as New got them for the first selector, without defaults
	source  Source
	home    topology.Place
	fields  fields             // of locations, that are levels
	alike   *topology.Location // the fields of home: callers there see what the selector sees; nil: unless they have its labels
	epoch   time.Time          // when the selector's clock was 0
	prober  *latency.Prober
	measure measuring
	log     *slog.Logger

	run  context.Context // ends with the last handle
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

// joint is what selectors must have in common to share a core, beside their options. The
// zero value is for those that share nothing.
type joint struct {
	registry *kv.Registry // nil: New opens it
	nc       *nats.Conn
}

// cores are those of this process that further selectors may join.
var cores struct {
	sync.Mutex
	by map[joint][]*core
}

// join returns a core for a selector: one that there is, if its options are the same, else a
// new one. [core.leave] is its end.
func join(ctx context.Context, nc *nats.Conn, given, o Options) (*core, error) {
	var at joint
	if r, ok := o.Source.(*kv.Registry); ok || o.Source == nil {
		at = joint{r, nc}
	}
	for {
		c, mine := enter(at, nc, given, o)
		if mine {
			err := c.open(ctx)
			if err != nil {
				c.failed = true
				cores.Lock()
				c.hideLocked()
				cores.Unlock()
			}
			close(c.ready)
			return c, err
		}
		select {
		case <-c.ready:
			if !c.failed {
				return c, nil
			}
			// Perhaps only because the context of the one that opened it has ended.
		case <-ctx.Done():
			_ = c.leave()
			return nil, fmt.Errorf("selector: %w", ctx.Err())
		}
	}
}

// enter returns a core, and whether that is new, so that it must be opened.
func enter(at joint, nc *nats.Conn, given, o Options) (c *core, mine bool) {
	cores.Lock()
	defer cores.Unlock()
	has := common(given, o)
	for _, c := range cores.by[at] {
		if sameOptions(c.common, has) {
			c.handles++
			return c, false
		}
	}
	c = &core{
		joint: at, common: has, ready: make(chan struct{}), handles: 1,
		opts: o, given: given, source: o.Source, log: o.Logger, nc: nc, subject: o.Registry.Bucket + ".",
		home:   topology.Place{Location: o.Location, Labels: o.Labels},
		epoch:  time.Now(),
		fields: fieldsOf(o.Levels),
	}
	if at != (joint{}) {
		if cores.by == nil {
			cores.by = make(map[joint][]*core)
		}
		cores.by[at] = append(cores.by[at], c)
	}
	return c, true
}

// open opens the registry, and starts the core.
func (s *core) open(ctx context.Context) (err error) {
	if !slices.ContainsFunc(s.opts.Levels, isLabel) && s.opts.Levels.Circle(s.home, s.home) == 0 { // unknown is not a place
		alike := s.fields.of(s.home.Location)
		s.alike = &alike
	}
	if s.source == nil {
		if s.source, err = kv.Open(ctx, s.nc, s.opts.Registry); err != nil {
			return fmt.Errorf("selector: %w", err)
		}
	}
	s.measure = measuring{Probe: s.opts.Probe, dial: s.opts.Latency.Dial, nc: s.nc, subject: s.subject}
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
	s.prober = latency.New(latency.Caller{Location: s.opts.Location, Bus: s.opts.Probe.Bus, Logger: s.log}, s.opts.Latency)
	s.services.Store(&map[string]*service{})
	s.run, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.work.Go(s.maintain)
	return nil
}

// leave closes the core if no other selector uses it.
func (s *core) leave() error {
	cores.Lock()
	s.handles--
	last := s.handles == 0
	if last {
		s.hideLocked()
	}
	cores.Unlock()
	if !last {
		return nil
	}
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

// hideLocked lets no further selector join. It is called with cores locked.
func (s *core) hideLocked() {
	switch list := slices.DeleteFunc(cores.by[s.joint], func(c *core) bool { return c == s }); len(list) {
	case 0:
		delete(cores.by, s.joint)
	default:
		cores.by[s.joint] = list
	}
}

// common are the options that selectors of a core have in common. They are as the code
// states them, which differs from a default where there is a policy, unless policies do not
// say them.
func common(given, o Options) Options {
	given.Strategy, given.OnPick, given.Logger = "", nil, nil
	given.Location, given.Levels, given.FirstSnapshot = o.Location, o.Levels, o.FirstSnapshot
	if len(o.Labels) == 0 {
		given.Labels = nil
	}
	if given.Registry = (kv.Options{Bucket: o.Registry.Bucket}); o.Source == nil {
		given.Registry = o.Registry
		given.Registry.Logger = nil
	}
	return given
}

// sameOptions reports whether both options, see [common], are the same.
func sameOptions(a, b Options) bool {
	if !sameFunc(a.Retry.Classify, b.Retry.Classify) || !sameFunc(a.Breaker.OnChange, b.Breaker.OnChange) ||
		!sameFunc(a.Latency.Dial, b.Latency.Dial) || !sameFunc(a.Ramp.Now, b.Ramp.Now) ||
		a.Probe.TLS != b.Probe.TLS || !sameValue(a.Probe.Bus, b.Probe.Bus) || !sameValue(a.Source, b.Source) {
		return false
	}
	for _, o := range [...]*Options{&a, &b} { // what was compared, and must not be read: it may be in use
		o.Retry.Classify, o.Breaker.OnChange, o.Latency.Dial, o.Ramp.Now = nil, nil, nil, nil
		o.Probe.TLS, o.Probe.Bus, o.Source = nil, nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// sameFunc reports whether two functions are one value, with the same captured variables, or
// both nil. The language compares functions with nil only.
func sameFunc[F any](a, b F) bool {
	return *(*unsafe.Pointer)(unsafe.Pointer(&a)) == *(*unsafe.Pointer)(unsafe.Pointer(&b))
}

// sameValue is a == b, and false where that panics.
func sameValue(a, b any) bool {
	return a == nil && b == nil || a != nil && b != nil && reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}
