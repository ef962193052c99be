package router_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	u1Body = `{"id":"u1","service":"user","endpoints":{"http":"127.0.0.1:9"},"location":{"region":"r1","zone":"a"},"ttl":"9s"}`
	u1Ref  = `{"id":"u1","service":"user"}`
)

type registered struct {
	events.Instance
	HeartbeatEvery string
}

func (r *registered) UnmarshalJSON(data []byte) error {
	var more struct {
		HeartbeatEvery string `json:"heartbeat_every"`
	}
	err := errors.Join(r.Instance.UnmarshalJSON(data), decodeInto(data, &more))
	r.HeartbeatEvery = more.HeartbeatEvery
	return err
}

func TestAProgramWithoutNATSRegistersKeepsItsLeaseAndLeaves(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	got := d.do("POST", "/v1/register", u1Body)
	in := decode[registered](t, got.body)
	if got.status != 201 || in.ID != "u1" || in.Incarnation == "" || in.Started.IsZero() || in.HeartbeatEvery != "3s" {
		t.Fatalf("register: %d %s", got.status, got.body)
	}
	if list := d.get("/v1/services/user"); !strings.Contains(list.body, in.Incarnation) {
		t.Errorf("right after that it is not listed: %s", list.body)
	}
	if got := d.do("PUT", "/v1/heartbeat", u1Ref); got.status != 200 || !strings.Contains(got.body, `"heartbeat_every":"3s"`) {
		t.Errorf("heartbeat: %d %s", got.status, got.body)
	}
	if got := d.do("DELETE", "/v1/deregister", u1Ref); got.status != 200 {
		t.Errorf("deregister: %d %s", got.status, got.body)
	}
	if got := d.get("/v1/services/user"); got.status != 404 {
		t.Errorf("after it left: %d %s", got.status, got.body)
	}
	if got := d.do("PUT", "/v1/heartbeat", u1Ref); got.status != 404 {
		t.Errorf("a heartbeat after it left: %d %s", got.status, got.body)
	}
}

// A loopback address means the client's machine, which must be that of the router and of all
// callers.
func TestALoopbackEndpointIsForClientsOnOneMachine(t *testing.T) {
	f := newFleet(t)
	here, elsewhere := f.router(router.Options{}), f.router(router.Options{NATSElsewhere: true})
	if got := here.do("POST", "/v1/register", u1Body); got.status != 201 {
		t.Errorf("all on one machine: %d %s", got.status, got.body)
	}
	const why = `events: endpoints.http "127.0.0.1:9": callers on other machines cannot reach it`
	if got := elsewhere.do("POST", "/v1/register", u1Body); got.status != 400 || !strings.HasPrefix(got.err(), why) || !strings.Contains(got.err(), "--allow-loopback") {
		t.Errorf("NATS elsewhere: %d %s", got.status, got.body)
	}
	if got := elsewhere.do("POST", "/v1/register", strings.Replace(u1Body, "127.0.0.1", "10.0.0.5", 1)); got.status != 409 {
		t.Errorf("an address of its machine: %d %s", got.status, got.body)
	}
	allowed := f.router(router.Options{NATSElsewhere: true, AllowLoopback: true})
	if got := allowed.do("POST", "/v1/register", u1Body); got.status != 200 {
		t.Errorf("allowed: %d %s", got.status, got.body)
	}

	local := forwarding.Trust{netip.MustParsePrefix("127.0.0.0/8")}
	behind := f.router(router.Options{Trust: local})
	for _, tt := range []struct {
		name   string
		d      *door
		peer   string
		client []string
		want   int
	}{
		{"by way of a proxy here that speaks RFC 7239, from another machine", behind, "127.0.0.1:9", []string{"Forwarded", `proto=https;For="192.0.2.1:80"`}, 400},
		{"the same, from a machine with a hidden name", behind, "127.0.0.1:9", []string{"Forwarded", "for=127.0.0.1, for=_hidden"}, 400},
		{"the same, from here", behind, "127.0.0.1:9", []string{"Forwarded", `for="[::1]:4711";proto=http, for=127.0.0.1`}, 200},
		{"a client on another machine", here, "192.0.2.1:9", nil, 400},
		{"the same, allowed", allowed, "192.0.2.1:9", nil, 200},
		{"a client here by IPv6", here, "[::1]:9", nil, 200},
		{"a client that says it is elsewhere", here, "127.0.0.1:9", []string{"192.0.2.1"}, 200},
		{"by way of a proxy here, from another machine", behind, "127.0.0.1:9", []string{"127.0.0.1", "192.0.2.1"}, 400},
		{"by way of a proxy here, from here", behind, "127.0.0.1:9", []string{"127.0.0.1, ::1"}, 200},
		{"by way of a proxy elsewhere", behind, "192.0.2.1:9", []string{"127.0.0.1"}, 400},
	} {
		req := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/register", strings.NewReader(u1Body))
		req.RemoteAddr = tt.peer
		name := "X-Forwarded-For"
		for _, c := range tt.client {
			if c == "Forwarded" {
				name = c
				continue
			}
			req.Header.Add(name, c)
		}
		w := httptest.NewRecorder()
		tt.d.ServeHTTP(w, req)
		if w.Code != tt.want {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
	}
}

func TestOneLifeMayChangeItsRecord(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	first := decode[registered](t, d.do("POST", "/v1/register", u1Body).body)
	body := strings.Replace(u1Body, `"ttl"`, `"incarnation":"`+first.Incarnation+`","status":"draining","metadata":{"k":"v"},"ttl"`, 1)
	body = strings.Replace(body, "127.0.0.1:9", "127.0.0.1:10", 1)
	got := d.do("POST", "/v1/register", body)
	in := decode[registered](t, got.body)
	if got.status != 200 || in.Status != events.Draining || in.Metadata["k"] != "v" || in.Endpoints["http"] != "127.0.0.1:10" {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if got := d.do("PUT", "/v1/heartbeat", u1Ref); got.status != 200 {
		t.Errorf("a heartbeat after that: %d %s", got.status, got.body)
	}
}

func TestARestartedProgramGetsItsIDBack(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	before := decode[registered](t, d.do("POST", "/v1/register", u1Body).body)
	got := d.do("POST", "/v1/register", u1Body) // as after a crash: nothing is known of the first life
	after := decode[registered](t, got.body)
	if got.status != 200 || after.Incarnation == before.Incarnation || after.Incarnation == "" {
		t.Errorf("got %d %s, want a new incarnation, not %s", got.status, got.body, before.Incarnation)
	}
	// What is left of the first life finds out.
	got = d.do("PUT", "/v1/heartbeat", `{"id":"u1","service":"user","incarnation":"`+before.Incarnation+`"}`)
	if got.status != 409 || !strings.Contains(got.err(), after.Incarnation) {
		t.Errorf("a heartbeat of the first life: %d %s", got.status, got.body)
	}
	if got := d.do("DELETE", "/v1/deregister", `{"id":"u1","service":"user","incarnation":"`+before.Incarnation+`"}`); got.status != 409 {
		t.Errorf("a deregistration of the first life: %d %s", got.status, got.body)
	}
}

func TestTheIDOfAnotherInstanceIsRefused(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.do("POST", "/v1/register", u1Body)
	for name, body := range map[string]string{
		"at another address":               strings.Replace(u1Body, ":9", ":10", 1),
		"in another zone, another address": strings.NewReplacer(":9", ":10", `"zone":"a"`, `"zone":"b"`).Replace(u1Body),
	} {
		got := d.do("POST", "/v1/register", body)
		if got.status != 409 || !strings.Contains(got.err(), "its lease ends within 9s") || !strings.Contains(got.err(), "127.0.0.1:9") {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

func TestAnInstanceThatMovedIsListedOnce(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.do("POST", "/v1/register", u1Body)
	if got := d.do("POST", "/v1/register", strings.Replace(u1Body, `"zone":"a"`, `"zone":"b"`, 1)); got.status != 200 {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	testkit.Eventually(t, "the old place is gone", func() bool {
		list := decode[router.Instances](t, d.get("/v1/services/user").body)
		return len(list.Instances) == 1 && list.Instances[0].Location == zoneB
	})
	if got := d.do("PUT", "/v1/heartbeat", u1Ref); got.status != 200 {
		t.Errorf("a heartbeat after that: %d %s", got.status, got.body)
	}
}

func TestTwoInstancesOfOneIDMustBeToldApart(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	for zone, incarnation := range map[string]string{"a": "one", "b": "two"} { // by announcers, which cannot know of each other
		in := events.Instance{
			Service: "user", ID: "u1", Incarnation: incarnation, Location: topology.Location{Region: "r1", Zone: zone},
			Endpoints: map[string]string{"http": "127.0.0.1:9"}, TTL: time.Hour,
		}
		if _, err := f.reg.Register(t.Context(), in, 0); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "both are seen", func() bool {
		list := decode[router.Instances](t, d.get("/v1/services/user").body)
		return len(list.Instances) == 2
	})
	if got := d.do("PUT", "/v1/heartbeat", u1Ref); got.status != 409 || !strings.Contains(got.err(), "say which incarnation is meant") {
		t.Errorf("got %d %s", got.status, got.body)
	}
	if got := d.do("PUT", "/v1/heartbeat", `{"id":"u1","service":"user","incarnation":"two"}`); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestHeartbeatsMayGoToAnyRouterAndToOneThatWasRestarted(t *testing.T) {
	f := newFleet(t)
	first, second := f.router(router.Options{}), f.router(router.Options{})
	first.do("POST", "/v1/register", u1Body)
	testkit.Eventually(t, "the other router takes a heartbeat", func() bool {
		return second.do("PUT", "/v1/heartbeat", u1Ref).status == 200
	})
	first.end()
	restarted := f.router(router.Options{})
	if got := restarted.do("PUT", "/v1/heartbeat", u1Ref); got.status != 200 {
		t.Errorf("the router that was restarted: %d %s", got.status, got.body)
	}
}

func TestALeaseLivesAsLongAsItsHeartbeatsAndNoLonger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newBubbleRouter(t)
		in := events.Instance{
			Service: "user", ID: "u1", Location: zoneA, TTL: 15 * time.Second,
			Endpoints: map[string]string{"nats": "user.u1"}, // nothing to probe: sockets would stop the clock
		}
		reg, err := r.Registrar().Register(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		// Longer than the registry keeps a record that is not written again.
		ref := registrar.Ref{Service: "user", ID: "u1", Incarnation: reg.Incarnation}
		for began := time.Now(); time.Since(began) < 45*time.Minute; time.Sleep(reg.HeartbeatEvery) {
			if _, err := r.Registrar().Heartbeat(t.Context(), ref); err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
		}
		// Alive until 15 s after the last heartbeat, 5 s of which are gone.
		time.Sleep(9 * time.Second)
		if _, err := r.Registrar().Heartbeat(t.Context(), ref); err != nil {
			t.Fatalf("a late heartbeat: %v", err)
		}
		time.Sleep(16 * time.Second)
		if _, err := r.Registrar().Heartbeat(t.Context(), ref); !errors.Is(err, registrar.ErrNotListed) {
			t.Errorf("after the lease has ended: %v", err)
		}
	})
}

func TestARestartedRouterWritesRecordsAgainBeforeTheyAreLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		nc := natstest.Connect(t, ns)
		reg, err := kv.Open(t.Context(), nc, kv.Options{Memory: true, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		in := events.Instance{
			Service: "user", ID: "u1", Incarnation: "i", Location: zoneA, TTL: 15 * time.Second, Endpoints: map[string]string{"nats": "user.u1"},
		}
		ref := registrar.Ref{Service: "user", ID: "u1"}
		listed := false
		for range 12 { // routers, each for less than half of what a record lives
			r, err := router.New(t.Context(), nc, reg, router.Options{Logger: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !listed {
				if _, err := r.Registrar().Register(t.Context(), in); err != nil {
					t.Fatal(err)
				}
				listed = true
			}
			for began := time.Now(); time.Since(began) < 4*time.Minute; time.Sleep(5 * time.Second) {
				if _, err := r.Registrar().Heartbeat(t.Context(), ref); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// bubble is for a package that also has tests outside of a bubble: it leaves no
// timer of the bubble in the pool of nats.go. Parallel tests run when all others
// have ended, so never beside a bubble.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	defer func() {
		runtime.GC()
		runtime.GC()
	}()
	natstest.Bubble(t, f)
}

func newBubbleRouter(t *testing.T) *router.Router {
	t.Helper()
	nc := natstest.Connect(t, natstest.Start(t))
	reg, err := kv.Open(t.Context(), nc, kv.Options{Memory: true, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(t.Context(), nc, reg, router.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// verbs are a registry whose answers a test decides.
type verbs struct {
	*kv.Registry
	renew, register func() error // nil: the registry's own
}

func (v *verbs) Renew(ctx context.Context, in *events.Instance, revision uint64) error {
	if v.renew != nil {
		if err := v.renew(); err != nil {
			return err
		}
	}
	return v.Registry.Renew(ctx, in, revision)
}

func (v *verbs) Register(ctx context.Context, in events.Instance, revision uint64) (uint64, error) {
	if v.register != nil {
		if err := v.register(); err != nil {
			return 0, err
		}
	}
	return v.Registry.Register(ctx, in, revision)
}

func TestWhatTheRegistryRefusesOnceIsLookedUpAgain(t *testing.T) {
	f := newFleet(t)
	v := &verbs{Registry: f.reg}
	r, err := router.New(t.Context(), f.nc, v, router.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := events.Instance{Service: "user", ID: "u1", Endpoints: map[string]string{"http": "127.0.0.1:9"}, TTL: time.Hour}
	fence := func(times int) func() error {
		return func() error {
			if times--; times >= 0 {
				return kv.ErrFenced
			}
			return nil
		}
	}
	v.register = fence(1)
	if _, err := r.Registrar().Register(t.Context(), in); err != nil {
		t.Errorf("register: %v", err)
	}
	v.register = fence(99)
	if _, err := r.Registrar().Register(t.Context(), in); !errors.Is(err, registrar.ErrConflict) {
		t.Errorf("register, refused for ever: %v", err)
	}
	v.register, v.renew = nil, fence(1)
	if _, err := r.Registrar().Heartbeat(t.Context(), registrar.Ref{Service: "user", ID: "u1"}); err != nil {
		t.Errorf("heartbeat: %v", err)
	}
	v.renew = fence(99)
	if _, err := r.Registrar().Heartbeat(t.Context(), registrar.Ref{Service: "user", ID: "u1"}); !errors.Is(err, kv.ErrFenced) {
		t.Errorf("heartbeat, refused for ever: %v", err)
	}
	v.renew = func() error { return kv.ErrUnavailable }
	if _, err := r.Registrar().Heartbeat(t.Context(), registrar.Ref{Service: "user", ID: "u1"}); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("heartbeat, without a registry: %v", err)
	}
}
