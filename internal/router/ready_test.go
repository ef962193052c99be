package router_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestGoesOnWithoutNATS(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	d.instance("user", "u", zoneA, says("hello"))
	if got := d.get("/readyz"); got.status != 200 || !strings.Contains(got.body, `"ready":true,"stale":false,"services":1`) {
		t.Errorf("ready: %d %s", got.status, got.body)
	}
	d.get("/proxy/user/")
	natstest.Stop(f.ns)
	testkit.Eventually(t, "the view is called stale", func() bool {
		return strings.Contains(d.get("/readyz").body, `"stale":true`)
	})
	if got := d.get("/readyz"); got.status != 200 {
		t.Errorf("a router with a stale view still works, and says %d %s", got.status, got.body)
	}
	for range 20 {
		if got := d.get("/proxy/user/"); got.body != "hello" {
			t.Fatalf("got %d %s", got.status, got.body)
		}
	}
	if got := d.get("/v1/services"); !strings.Contains(got.body, `"stale":true`) {
		t.Errorf("got %s", got.body)
	}
	if got := d.get("/v1/services/user"); !strings.Contains(got.body, `"stale":true`) {
		t.Errorf("got %s", got.body)
	}
	if got := d.do("PUT", "/v1/heartbeat", `{"service":"user","id":"u"}`); got.status != 503 {
		t.Errorf("a heartbeat: %d %s", got.status, got.body)
	}
	if got := d.do("POST", "/v1/register", u1Body); got.status != 503 {
		t.Errorf("a registration: %d %s", got.status, got.body)
	}
}

func TestSaysWhetherRegistrationsCanBeStored(t *testing.T) {
	f := newFleet(t)
	var broken atomic.Pointer[error]
	d := f.router(router.Options{Store: func() error {
		if err := broken.Load(); err != nil {
			return *err
		}
		return nil
	}})
	d.instance("user", "u", zoneA, says("hello"))
	ready := func(what, body string) {
		t.Helper()
		testkit.Eventually(t, what, func() bool {
			got := d.get("/readyz")
			return got.status == 200 && strings.HasPrefix(got.body, body)
		})
	}
	ready("at first", `{"ready":true,"stale":false,"services":1,"writable":true}`)
	full := errors.New("no space left on device")
	broken.Store(&full)
	ready("without room", `{"ready":true,"stale":false,"services":1,"writable":false,"reason":"no space left on device"}`)
	broken.Store(nil)
	ready("with room", `{"ready":true,"stale":false,"services":1,"writable":true}`)
	natstest.Stop(f.ns)
	took := testkit.Eventually(t, "without a server", func() bool {
		got := d.get("/readyz")
		return got.status == 200 && strings.Contains(got.body, `"stale":true`) && strings.Contains(got.body, `"writable":false`) && strings.Contains(got.body, "not connected")
	})
	if took > 5*time.Second {
		t.Errorf("it said so after %v", took)
	}
}

func TestSaysWhyTheRegistryCannotBeRead(t *testing.T) {
	ns := natstest.Start(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "blind", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.DIRECT.GET.>"}}}}}
	})
	nc := natstest.Connect(t, ns, nats.UserInfo("blind", "x"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	reg, err := kv.Open(t.Context(), nc, kv.Options{Memory: true, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(t.Context(), nc, reg, router.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	testkit.Eventually(t, "it names the permission", func() bool {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		return w.Code == 503 && strings.Contains(w.Body.String(), "has not been read yet") && strings.Contains(strings.ToLower(w.Body.String()), "permissions violation for publish")
	})
}

func TestIsNotReadyBeforeTheRegistryHasBeenRead(t *testing.T) {
	f := newFleet(t)
	nc := natstest.Connect(t, f.ns)
	natstest.Stop(f.ns)
	r, err := router.New(t.Context(), nc, f.reg, router.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for path, status := range map[string]int{
		"/readyz": 503, "/healthz": 200, "/v1/services": 503, "/v1/services/user": 503, "/v1/events": 503, "/proxy/user/": 503, "/metrics": 404,
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != status {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, status)
		}
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("PUT", "/v1/heartbeat", strings.NewReader(u1Ref)))
	if w.Code != 503 {
		t.Errorf("a heartbeat: %d %s", w.Code, w.Body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
}

// One that has just started leaves calls to the others until it has read the
// registry.
func TestAnswersByNATSOnceTheRegistryHasBeenRead(t *testing.T) {
	f := newFleet(t)
	registry := &slow{f.reg, make(chan struct{})}
	r, err := router.New(t.Context(), natstest.Connect(t, f.ns), registry, router.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.Sleep(50 * time.Millisecond) // in which it may not begin to answer
	ask := func() error {
		_, err := f.nc.Request("proxima.resolve.user", nil, 5*time.Second)
		return err
	}
	if err := ask(); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("before: %v, want no responders", err)
	}
	close(registry.read)
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Errorf("after: %v", err)
	}
}

// slow is a registry whose answer takes until read is closed.
type slow struct {
	*kv.Registry
	read chan struct{}
}

func (s *slow) Snapshot(ctx context.Context, service string) ([]events.Snapshot, error) {
	select {
	case <-s.read:
		return s.Registry.Snapshot(ctx, service)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A socket that systemd keeps over a restart may have requests when the router starts.
func TestARequestThatComesBeforeTheRegistryIsReadWaitsForIt(t *testing.T) {
	f := newFleet(t)
	f.router(router.Options{}).instance("user", "u", zoneA, says("hello"))
	nc := natstest.Connect(t, f.ns)
	reg, err := kv.Open(t.Context(), nc, kv.Options{Memory: true, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proxy/user/", "/v1/services/user", "/v1/explain/user"} {
		r, err := router.New(t.Context(), nc, reg, router.Options{Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
