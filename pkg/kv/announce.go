package kv

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Phase is where an announcement is in its life.
type Phase string

// The phases of an announcement.
const (
	// Checking: not listed yet, its check has not passed.
	Checking Phase = "checking"
	// Registering: not listed, the registry has not taken it yet.
	Registering Phase = "registering"
	// Registered: listed, with a lease that is being renewed.
	Registered Phase = "registered"
	// Draining: listed as about to leave.
	Draining Phase = "draining"
	// Conflict: not listed, because another live instance has its id. It is
	// tried again.
	Conflict Phase = "conflict"
	// Replaced: not listed any more, a newer incarnation has taken its id.
	// Final: two processes must not fight for one id.
	Replaced Phase = "replaced"
	// Left: deregistered, or left listed by [Announcement.Release]. Final.
	Left Phase = "left"
)

// ErrConflict is in [State.Err] while another live instance has the same id,
// and after a newer incarnation has taken it.
var ErrConflict = errors.New("kv: the id belongs to another instance")

// State is the state of an announcement.
type State struct {
	Service, Instance string
	Phase             Phase
	// Status is what is announced to callers, or would be.
	Status events.Status
	// Since is when the phase began.
	Since time.Time
	// Err is the last error of this phase, nil when all is well. In [Registered]
	// it is why the lease could not be renewed lately.
	Err error
	// Lapsed is set in [Registered] while the lease has not been renewed for longer than
	// the ttl: callers may have lost the instance. Err says why.
	Lapsed bool
	// Revision of the record while it is listed.
	Revision uint64
	// Lost is how often the record was gone without a deregistration and was
	// announced again: its lease had ended, or the registry lost it.
	Lost uint64
	// Released is set in the phase [Left] when the instance stays listed until its lease
	// ends.
	Released bool
}

// Registered reports whether the instance is listed, as far as its announcer knows.
func (s State) Registered() bool { return s.Phase == Registered || s.Phase == Draining }

// Locator finds an instance's place in the coordinate space from what callers
// tell it. *latency.Locator is one. Its methods are called one at a time or
// together, and must return soon.
type Locator interface {
	// Answer takes in the content of a ping and returns that of the answer.
	Answer(ping []byte) []byte
	// Coordinate is what the record should carry now, false for none. Every
	// change of it writes the record again.
	Coordinate() (events.Coordinate, bool)
}

// AnnounceOptions configure [Registry.Announce]. The zero value is ready to use.
type AnnounceOptions struct {
	// Check reports whether the instance works. It is announced after the first
	// pass; when the check fails twice in a row later it becomes not_ready, and up
	// again after the next pass. Its context ends after CheckTimeout; a check that
	// has not returned by then has failed. Check the instance itself and not what
	// it depends on: when all instances of a service are not_ready, calls to it
	// fail, also if the cause is a dependency that they share. Default: always
	// ready.
	Check func(context.Context) error
	// CheckInterval is the time between checks; until the first pass it is at most
	// 200 ms. Default 2s.
	CheckInterval time.Duration
	// CheckTimeout bounds one check. Default 2s.
	CheckTimeout time.Duration
	// CheckRise is how many checks in a row must pass until the instance is ready, at
	// first and after it was not. Default 1.
	CheckRise int
	// CheckFall is how many checks in a row must fail until a ready instance is not ready.
	// Default 2.
	CheckFall int
	// StartPeriod is how long the instance may take until it is ready for the first time:
	// a failing check is no error in State before that. Default 0.
	StartPeriod time.Duration
	// Drain is how long Leave keeps the instance listed as draining, so that
	// callers hear of it and calls end. Default 0: deregister at once; callers
	// then send a few more calls, which fail if the server is gone.
	Drain time.Duration
	// InFlight returns the number of calls being served: draining ends early when
	// it is 0, though not before callers could hear of it. The program counts its
	// calls, for example in a wrapper of its handler. Default: draining takes all
	// of Drain.
	InFlight func() int
	// Load returns how loaded the instance is; false: nothing to publish now. It
	// is called every BeatInterval while the instance is listed and the registry
	// connected, one call at a time, with no lock held. Leave waits for it at most
	// a second. The incarnation is filled in. Default: no beats.
	Load func() (events.Beat, bool)
	// BeatInterval is the time between two beats, give or take a tenth.
	// Default 5s.
	BeatInterval time.Duration
	// Locator answers pings, by which callers and instances find out where they
	// are, and keeps the coordinate of the record. Default: pings get an empty
	// answer and the coordinate stays as it was announced.
	Locator Locator
	// OnState is called after every change of the state, in order, with no
	// lock held. It should return soon and must not wait for Leave: the lease
	// is renewed by the same goroutine.
	OnState func(State)
	// Logger for changes of the state. Default: the registry's.
	Logger *slog.Logger
}

// Announcement keeps one instance listed until [Announcement.Leave]. It is
// safe for concurrent use.
type Announcement struct {
	r    *Registry
	opts AnnounceOptions
	log  *slog.Logger

	in      atomic.Pointer[events.Instance] // as it is, or will be, announced
	updated chan struct{}                   // it has changed
	done    chan struct{}

	busy     context.Context // ends when Leave is called: whatever waits, stops
	leave    context.CancelFunc
	draining context.Context // ends when draining must end at once
	hurry    context.CancelFunc
	released atomic.Bool // Release was called: the instance stays listed

	mu       sync.Mutex // guards what follows
	state    State
	changed  chan struct{} // closed and replaced with every change of it
	leaveErr error         // why Leave did not deregister
}

// Announce lists an instance, and keeps it listed: it announces in after its
// first passed check, renews the lease every third of the ttl, announces again
// whenever the record was lost, and never gives up. It returns at once, see
// [Announcement.Ready]; the error is about in and o only. While the instance is
// listed, pings on the subject <bucket>. followed by [events.Key.Ping] are answered,
// for callers that measure how far it is.
//
// Incarnation and Started are filled in if they are empty. So is Location if none
// of its fields is known: from PROXIMA_REGION, PROXIMA_ZONE and the others of
// [topology.Environment], as selector.New does for the caller; both log it once. A zone
// without a region, and a loopback address while NATS is elsewhere, are warned of once.
// ID, Service and Endpoints must be given; each protocol has one endpoint, so a second
// port or subject of the same protocol is another service.
func (r *Registry) Announce(in events.Instance, o AnnounceOptions) (*Announcement, error) {
	in.Incarnation = cmp.Or(in.Incarnation, rand.Text()[:12])
	if in.Started.IsZero() {
		in.Started = time.Now()
	}
	in.Started = in.Started.UTC().Truncate(time.Millisecond)
	o.Logger = cmp.Or(o.Logger, r.link.Log)
	if in.Location == (topology.Location{}) {
		in.Location = topology.Here(context.Background(), o.Logger)
	}
	full, err := complete(in)
	if err == nil {
		err = r.sources.Belongs(full.Location.Region)
	}
	if err != nil {
		return nil, err
	}
	r.doubt(full, o.Logger)
	if o.CheckInterval <= 0 {
		o.CheckInterval = checkInterval
	}
	if o.CheckTimeout <= 0 {
		o.CheckTimeout = checkTimeout
	}
	o.CheckRise = max(o.CheckRise, 1)
	if o.CheckFall <= 0 {
		o.CheckFall = 2
	}
	if o.BeatInterval <= 0 {
		o.BeatInterval = beatInterval
	}
	a := &Announcement{
		r: r, opts: o,
		log:     o.Logger.With("service", full.Service, "instance", full.ID),
		updated: make(chan struct{}, 1),
		done:    make(chan struct{}),
		changed: make(chan struct{}),
	}
	a.busy, a.leave = context.WithCancel(context.Background())
	a.draining, a.hurry = context.WithCancel(context.Background())
	a.in.Store(full)
	a.state = State{Service: full.Service, Instance: full.ID, Phase: Registering, Status: full.Status, Since: time.Now()}
	if o.Check != nil {
		a.state.Phase = Checking
	}
	go newAnnouncer(a).run() // ends with Leave, or when it is replaced
	return a, nil
}

// doubt warns, once of each, of what callers elsewhere cannot use.
func (r *Registry) doubt(in *events.Instance, log *slog.Logger) {
	log = log.With("service", in.Service, "instance", in.ID)
	if in.Location.Zone != "" && in.Location.Region == "" {
		r.warned.region.Do(func() {
			log.Warn("the region is unknown: set it (--region, PROXIMA_REGION), else equally named zones of all regions count as near", "zone", in.Location.Zone)
		})
	}
	if protocol, address, found := in.LoopbackEndpoint(); found && natsElsewhere(r.link.Conn) {
		r.warned.loopback.Do(func() {
			log.Warn("NATS is on another machine, and callers on other machines cannot reach a loopback address", "endpoint", protocol+"="+address)
		})
	}
}

// natsElsewhere reports whether none of the servers that a connection was made for is on
// this machine, as far as addresses tell.
func natsElsewhere(nc *nats.Conn) bool {
	o := &nc.Opts
	if o.InProcessServer != nil || o.CustomDialer != nil {
		return false
	}
	for _, server := range append([]string{o.Url}, o.Servers...) {
		if server == "" {
			continue
		}
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		if u, err := url.Parse(server); err != nil || events.Loopback(u.Hostname()) {
			return false
		}
	}
	return true
}

// Ready waits until the instance is listed. The error is ctx's, with the last one
// of the announcement, or says that the announcement has ended.
func (a *Announcement) Ready(ctx context.Context) error {
	for {
		a.mu.Lock()
		s, changed := a.state, a.changed
		a.mu.Unlock()
		switch {
		case s.Registered():
			return nil
		case s.Phase == Left, s.Phase == Replaced:
			return errors.Join(fmt.Errorf("kv: %s of %s is not listed, its announcement has ended: %s", s.Instance, s.Service, s.Phase), s.Err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("kv: %s of %s is not listed yet, it is %s: %w", s.Instance, s.Service, s.Phase, context.Cause(ctx)), s.Err)
		}
	}
}

// State returns where the announcement is now.
func (a *Announcement) State() State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Instance returns the instance as it is announced. It is not to be changed.
func (a *Announcement) Instance() events.Instance { return *a.in.Load() }

// Done is closed when the announcement has ended: it has left, or was replaced.
func (a *Announcement) Done() <-chan struct{} { return a.done }

// Update changes what is announced, at once, also the ttl of the lease. Service, region,
// zone, id and incarnation cannot be changed. The function change gets a copy of its own,
// and is called again when another Update was faster. A weight of 0 is
// [events.LastResort].
func (a *Announcement) Update(change func(*events.Instance)) error {
	for {
		before := a.in.Load()
		after, err := complete(*before)
		if err != nil {
			return err
		}
		change(after)
		if after.Weight == 0 {
			after.Weight = events.LastResort // it had a weight: this is no missing one
		}
		if after.Key() != before.Key() || after.Incarnation != before.Incarnation {
			return fmt.Errorf("kv: update %s: service, region, zone, id and incarnation cannot be changed, announce another instance", before.Key())
		}
		full, err := complete(*after)
		if err != nil {
			return err
		}
		select {
		case <-a.busy.Done():
			return fmt.Errorf("kv: update %s: it is leaving", before.Key())
		case <-a.done:
			return fmt.Errorf("kv: update %s: it is not announced any more", before.Key())
		default:
		}
		if !a.in.CompareAndSwap(before, full) {
			continue
		}
		select {
		case a.updated <- struct{}{}:
		default: // it will see this one too
		}
		return nil
	}
}

// complete is a valid copy of in with its defaults.
func complete(in events.Instance) (*events.Instance, error) {
	data, err := events.Encode(in)
	if err != nil {
		return nil, err
	}
	return events.Decode(data)
}

// Leave ends the announcement: the instance is announced as draining for the time
// of [AnnounceOptions].Drain, then deregistered. When ctx ends, draining ends with
// it. If the registry does not answer, Leave gives up after a few seconds and returns
// an error; the lease then ends by itself. Leave may be called again.
//
// On shutdown call Leave first, while the server still serves: callers stop picking
// the instance, and calls that are on their way succeed. Then shut the server down,
// close the selector if there is one, and the connection last.
func (a *Announcement) Leave(ctx context.Context) error {
	a.leave()
	defer context.AfterFunc(ctx, a.hurry)()
	<-a.done
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.leaveErr
}

// Release ends the announcement and leaves the instance listed until its lease ends,
// which is renewed once more: the announcer that announces it next, within a ttl, takes
// it over without a gap. It is for registrars that restart, when the instances do not.
// Like [Announcement.Leave] it may be called again, and gives up when the registry does
// not answer.
func (a *Announcement) Release(ctx context.Context) error {
	a.released.Store(true)
	return a.Leave(ctx)
}

// set changes the state, logs it and calls OnState.
func (a *Announcement) set(change func(*State)) {
	a.mu.Lock()
	before := a.state
	change(&a.state)
	after := a.state
	if after.Phase != before.Phase {
		after.Since = time.Now()
		a.state.Since = after.Since
	}
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	if after.Phase == before.Phase && after.Status == before.Status && after.Revision == before.Revision && after.Lapsed == before.Lapsed && sameText(after.Err, before.Err) {
		return
	}
	a.logChange(before, after)
	if a.opts.OnState != nil {
		a.opts.OnState(after)
	}
}

func (a *Announcement) logChange(before, after State) {
	switch {
	case after.Phase == Conflict && before.Phase != Conflict, after.Phase == Replaced:
		a.log.Error("not registered", "phase", after.Phase, "error", after.Err)
	case after.Phase != before.Phase || after.Status != before.Status:
		facts := []any{"phase", after.Phase, "status", after.Status}
		if after.Err != nil {
			facts = append(facts, "error", after.Err)
		}
		a.log.Info("announcement changed", facts...)
	case after.Lapsed && !before.Lapsed:
		a.log.Error("the lease has not been renewed for longer than its ttl, callers may have lost the instance", "phase", after.Phase, "error", after.Err)
	case after.Err != nil && before.Err == nil:
		a.log.Warn("announcement is in trouble", "phase", after.Phase, "error", after.Err)
	case after.Err == nil && before.Err != nil:
		a.log.Info("announcement is well again", "phase", after.Phase)
	}
}

func sameText(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }
