package kv_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// fixture is a server, a connection and an open registry.
type fixture struct {
	t  *testing.T
	ns *server.Server
	nc *nats.Conn
	r  *kv.Registry
}

func setup(t *testing.T) *fixture { return setupWith(t, kv.Options{}) }

func setupWith(t *testing.T, o kv.Options) *fixture {
	t.Helper()
	ns := natstest.Start(t)
	nc := natstest.Connect(t, ns, silent)
	return &fixture{t, ns, nc, open(t, nc, o)}
}

// silent keeps nats.go from writing to standard error.
var silent = nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})

// reconnectWait is how long connections of tests wait between attempts.
const reconnectWait = 200 * time.Millisecond

func open(t testing.TB, nc *nats.Conn, o kv.Options) *kv.Registry {
	t.Helper()
	o.Logger = quiet(o.Logger)
	r, err := kv.Open(t.Context(), nc, o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return r
}

func quiet(l *slog.Logger) *slog.Logger {
	if l != nil {
		return l
	}
	return slog.New(slog.DiscardHandler)
}

func instance(id string) events.Instance {
	return events.Instance{
		ID: id, Service: "user", Endpoints: map[string]string{events.HTTP: "10.0.0.5:8080"},
		Location: topology.Location{Region: "us-east-1", Zone: "us-east-1a"},
		TTL:      15 * time.Second,
	}
}

// announce announces and leaves with the test.
func (f *fixture) announce(r *kv.Registry, in events.Instance, o kv.AnnounceOptions) *kv.Announcement {
	f.t.Helper()
	o.Logger = quiet(o.Logger)
	a, err := r.Announce(in, o)
	if err != nil {
		f.t.Fatalf("announce: %v", err)
	}
	f.t.Cleanup(func() { _ = a.Leave(context.Background()) })
	return a
}

// viewer keeps the newest snapshot of each service.
type viewer struct {
	t     testing.TB
	of    string // the service that until is about
	mu    sync.Mutex
	last  map[string]events.Snapshot
	n     int
	least int // fewer instances of user fail the test
	check func(events.Snapshot)
	bell  chan struct{}
	stop  context.CancelFunc
	done  chan struct{}
}

// watch watches a service. Each snapshot is given to check first, unless that is left out.
func watch(t testing.TB, r *kv.Registry, service string, check ...func(events.Snapshot)) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &viewer{t: t, of: cmp.Or(service, "user"), last: map[string]events.Snapshot{}, bell: make(chan struct{}, 1), stop: cancel, done: make(chan struct{})}
	for _, c := range check {
		v.check = c
	}
	go func() {
		defer close(v.done)
		_ = r.Watch(ctx, service, v.apply)
	}()
	t.Cleanup(v.close)
	return v
}

func (v *viewer) close() {
	v.stop()
	<-v.done
}

func (v *viewer) apply(s events.Snapshot) {
	v.mu.Lock()
	v.last[s.Service] = s
	v.n++
	least, check := v.least, v.check
	v.mu.Unlock()
	if check != nil {
		check(s)
	}
	if s.Service == "user" && len(s.Entries) < least {
		v.t.Errorf("only %d are left: %s", len(s.Entries), show(s))
	}
	select {
	case v.bell <- struct{}{}:
	default:
	}
}

// allow lets the view shrink to n instances.
func (v *viewer) allow(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.least = n
}

func (v *viewer) get(service string) events.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last[service]
}

func (v *viewer) applied() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.n
}

// until waits until the snapshot is as wanted, of service user if all are watched.
func (v *viewer) until(what string, limit time.Duration, ok func(events.Snapshot) bool) {
	v.t.Helper()
	end := time.NewTimer(limit)
	defer end.Stop()
	for !ok(v.get(v.of)) {
		select {
		case <-v.bell:
		case <-end.C:
			v.t.Fatalf("after %v still not: %s; have %s", limit, what, show(v.get(v.of)))
		}
	}
}

func show(s events.Snapshot) string {
	out := fmt.Sprintf("stale=%v [", s.Stale)
	for _, e := range s.Entries {
		out += fmt.Sprintf(" %s:%s:%s suspect=%v", e.ID, e.Incarnation, e.Status, e.Suspect)
	}
	return out + " ]"
}

func count(n int) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool { return len(s.Entries) == n && !s.Stale }
}

// registered waits until the announcement is listed.
func registered(t testing.TB, a *kv.Announcement, limit time.Duration) {
	t.Helper()
	testkit.Within(t, limit, "registered", func() bool { return a.State().Registered() && a.State().Err == nil })
}

func TestAnnouncedInstanceIsSeenAndLeaves(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		v.until("an empty snapshot", 2*time.Second, func(s events.Snapshot) bool { return s.Service == "user" && len(s.Entries) == 0 })
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: 3 * time.Second})
		v.until("one instance", 2*time.Second, count(1))
		got := v.get("user").Entries[0]
		if got.ID != "a" || got.Status != events.Up || got.Incarnation == "" || got.Weight != 100 {
			t.Errorf("got %+v", got.Instance)
		}
		registered(t, a, time.Second)
		n := v.applied()
		time.Sleep(4 * time.Minute)
		if v.applied() != n {
			t.Errorf("4 minutes of heartbeats woke the watcher %d times", v.applied()-n)
		}
		began := time.Now()
		left := make(chan error, 1)
		go func() { left <- a.Leave(t.Context()) }()
		v.until("draining", time.Second, func(s events.Snapshot) bool { return s.Entries[0].Status == events.Draining })
		v.until("gone", 5*time.Second, count(0))
		if err := <-left; err != nil {
			t.Errorf("leave: %v", err)
		}
		if d := time.Since(began); d < 3*time.Second || d > 4*time.Second {
			t.Errorf("draining took %v, want 3s", d)
		}
		synctest.Wait()
	})
}
