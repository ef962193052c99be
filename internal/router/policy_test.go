package router_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/policy"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// policies is one policy for all services, in memory.
type policies struct {
	mu      sync.Mutex
	current policy.Current
	apply   []func(policy.Current)
}

func (p *policies) WatchPolicy(ctx context.Context, _ string, apply func(policy.Current)) error {
	p.mu.Lock()
	apply(p.current)
	p.apply = append(p.apply, apply)
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (p *policies) set(tb testing.TB, text string) {
	tb.Helper()
	read, err := policy.Decode([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current.Service = policy.Document{Name: "user", Policy: read, Revision: p.current.Service.Revision + 1}
	for _, apply := range p.apply {
		apply(p.current)
	}
}

// ruled is a registry with policies.
type ruled struct {
	*kv.Registry
	*policies
}

func (r ruled) WatchPolicy(ctx context.Context, service string, apply func(policy.Current)) error {
	return r.policies.WatchPolicy(ctx, service, apply)
}

// ruledRouter is a router whose services have a policy.
func ruledRouter(t *testing.T, text string, o router.Options, log *slog.Logger) (*door, *policies) {
	t.Helper()
	f := newFleet(t)
	f.policies = &policies{}
	f.policies.set(t, text)
	return f.loggedRouter(o, log), f.policies
}

// of lists an HTTP instance of a version.
func (d *door) of(version, id string, h http.Handler) {
	d.tb.Helper()
	srv := httptest.NewServer(h)
	d.tb.Cleanup(srv.Close)
	d.list(events.Instance{Service: "user", ID: id, Version: version, Location: zoneA, Endpoints: map[string]string{"http": srv.Listener.Addr().String()}})
}

func TestTheDoorsTakeAnExpression(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	echo := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, text+req.Header.Get("Proxima-Where")+req.URL.RawQuery)
		})
	}
	d.of("1", "one", echo("1"))
	d.of("2.1", "two", echo("2"))
	for range 5 {
		if a := d.get("/proxy/user/?where=version=1", "Proxima-Where", "version>=2"); a.status != 200 || a.body != "2where=version=1" {
			t.Errorf("%d %s", a.status, a.body)
		}
		if reply, code := d.ask("proxima.route.user", "", "proxima-where", "version<2"); code != "" || string(reply.Data) != "1" {
			t.Errorf("by NATS: %s %s", code, reply.Data)
		}
	}
	for _, list := range []router.Instances{
		decode[router.Instances](t, d.get("/v1/services/user?where=version%3E%3D2").body),
		decode[router.Instances](t, d.get("/v1/services/user", "Proxima-Where", "version>=2").body),
		func() router.Instances {
			reply, _ := d.ask("proxima.resolve.user", "", "Proxima-Where", "version>=2")
			return decode[router.Instances](t, string(reply.Data))
		}(),
	} {
		if len(list.Instances) != 1 || list.Instances[0].ID != "two" {
			t.Errorf("%+v", list)
		}
	}
	reply, _ := d.ask("proxima.explain.user", "", "Proxima-Where", " version >= 2")
	for _, e := range []selector.Explanation{
		decode[selector.Explanation](t, d.get("/v1/explain/user?where=version>%3D2").body), decode[selector.Explanation](t, string(reply.Data)),
	} {
		if e.Where != "version>=2" || e.Rule != "request" || len(e.Instances) != 2 || !e.Instances[1].OutsideSubset {
			t.Errorf("%+v", e)
		}
	}

	const wrong = `at "": want a value to compare with`
	for _, a := range []answer{
		d.get("/proxy/user/", "Proxima-Where", "version>"), d.get("/v1/services/user?where=version>"), d.get("/v1/explain/user?where=version>"),
	} {
		if a.status != 400 || !strings.Contains(a.err(), wrong) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	for _, door := range []string{"route", "resolve", "explain"} {
		if reply, code := d.ask("proxima."+door+".user", "", "Proxima-Where", "version>"); code != "400" || !strings.Contains(reply.Header.Get("Nats-Service-Error"), wrong) {
			t.Errorf("%s: %s %v", door, code, reply.Header)
		}
	}
	if a := d.get("/proxy/user/", "Proxima-Where", "version=9"); a.status != 503 || !strings.Contains(a.err(), "where version=9 (2 listed, 0 match, 0 usable)") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestTheTimeLimitsOfAPolicyHoldInTheRouter(t *testing.T) {
	var log bytes.Buffer
	var mu sync.Mutex
	hang := http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	d, p := ruledRouter(t, `{"timeout":"200ms"}`, router.Options{}, slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	}), nil)))
	d.of("1", "one", hang)
	if a := d.get("/proxy/user/"); a.status != 504 || !strings.Contains(a.err(), "(policy timeout 200ms)") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := d.get("/proxy/user/", "Proxima-Timeout", "50ms"); a.status != 504 || !strings.Contains(a.err(), "(Proxima-Timeout 50ms)") {
		t.Errorf("the caller has less time: %d %s", a.status, a.body)
	}
	if a := d.get("/proxy/user/", "Proxima-Timeout", "5s"); a.status != 504 || !strings.Contains(a.err(), "(policy timeout 200ms)") {
		t.Errorf("the caller has more time: %d %s", a.status, a.body)
	}
	if reply, code := d.ask("proxima.route.user", ""); code != "504" || !strings.Contains(reply.Header.Get("Nats-Service-Error"), "(policy timeout 200ms)") {
		t.Errorf("by NATS: %s %v", code, reply.Header)
	}
	mu.Lock()
	if !strings.Contains(log.String(), `limit="policy timeout" value=200ms`) {
		t.Errorf("log: %s", &log)
	}
	mu.Unlock()
	// An instance that hangs costs an attempt, not the call.
	p.set(t, `{"strategy":"round_robin","timeout":"20s","attempt_timeout":"100ms"}`)
	d.of("1", "two", says("2"))
	began := time.Now()
	for range 4 {
		if a := d.get("/proxy/user/"); a.status != 200 || a.body != "2" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("four calls took %v", took)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestThePolicyRulesCallsThroughTheRouter(t *testing.T) {
	d, p := ruledRouter(t, `{"overrides":[{"header":"x-version","value":"2","where":"version=2"}],"splits":[{"where":"version=2","share":0}]}`, router.Options{}, quiet())
	d.of("1", "one", says("1"))
	d.of("2", "two", says("2"))
	for range 5 {
		if a := d.get("/proxy/user/"); a.body != "1" {
			t.Errorf("%+v", a)
		}
		if a := d.get("/proxy/user/", "X-Version", "2"); a.body != "2" {
			t.Errorf("%+v", a)
		}
		if reply, _ := d.ask("proxima.route.user", "", "x-version", "2"); string(reply.Data) != "2" {
			t.Errorf("%s", reply.Data)
		}
	}
	if e := decode[selector.Explanation](t, d.get("/v1/explain/user", "X-Version", "2").body); e.Rule != "override x-version: 2" || e.Policy == nil || e.Policy.Revision != 1 {
		t.Errorf("%+v", e)
	}
	p.set(t, `{"where":"version=2"}`)
	if a := d.get("/proxy/user/"); a.body != "2" {
		t.Errorf("%+v", a)
	}
	if list := decode[router.Instances](t, d.get("/v1/services/user").body); len(list.Instances) != 1 {
		t.Errorf("%+v", list)
	}
}

func TestTheRouterMirrorsCallsOfBothDoors(t *testing.T) {
	d, _ := ruledRouter(t, `{"where":"version=1","mirror":{"where":"version=2","share":1}}`, router.Options{}, quiet())
	var mu sync.Mutex
	var got []string
	d.of("1", "one", says("1"))
	d.of("2", "two", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, req.Method+" "+string(body))
	}))
	copies := func(n int, last string) {
		t.Helper()
		testkit.Eventually(t, "a copy of "+last, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got) == n && got[n-1] == last
		})
	}
	if a := d.do("POST", "/proxy/user/", "by HTTP"); a.body != "1" {
		t.Errorf("%+v", a)
	}
	copies(1, "POST by HTTP")
	if reply, _ := d.ask("proxima.route.user", "by NATS"); string(reply.Data) != "1" {
		t.Errorf("%s", reply.Data)
	}
	copies(2, "POST by NATS")

	one := onSubject("pong", "one", "svc.one")
	one.Version = "1"
	two := onSubject("pong", "two", "svc.two")
	two.Version = "2"
	d.list(one)
	d.list(two)
	mirrored := make(chan string, 10)
	for subject, text := range map[string]string{"svc.one": "1", "svc.two": "2"} {
		sub, err := d.nc.Subscribe(subject, func(m *nats.Msg) {
			if text == "2" {
				mirrored <- string(m.Data)
			}
			_ = m.Respond([]byte(text))
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	if err := d.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if reply, _ := d.ask("proxima.route.pong", "payload"); string(reply.Data) != "1" {
		t.Errorf("%s", reply.Data)
	}
	select {
	case got := <-mirrored:
		if got != "payload" {
			t.Errorf("the copy is %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no copy came")
	}
}

func TestTheDoorsAnswer429WhereAllInstancesAreFull(t *testing.T) {
	d, policies := ruledRouter(t, `{"bulkhead":{"per_instance":1}}`, router.Options{}, slog.New(slog.DiscardHandler))
	inside, end := make(chan struct{}, 1), make(chan struct{})
	d.of("1", "one", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-end
	}))
	first := make(chan int)
	go func() { first <- d.get("/proxy/user/").status }()
	<-inside
	if got := d.get("/proxy/user/"); got.status != 429 || got.header.Get("Retry-After") != "1" || !strings.Contains(got.err(), "full: 1 calls in flight") {
		t.Errorf("by HTTP: %d, Retry-After %q, %s", got.status, got.header.Get("Retry-After"), got.body)
	}
	reply, code := d.ask("proxima.route.user", "", "Proxima-Method", "GET", "Proxima-Path", "/")
	if code != "429" || reply.Header.Get("Retry-After") != "1" {
		t.Errorf("by NATS: %q, %v", code, reply.Header)
	}
	var full selector.Explanation
	if got := d.get("/v1/explain/user"); got.status == 200 {
		full = decode[selector.Explanation](t, got.body)
	}
	if len(full.Instances) != 1 || !full.Instances[0].Full || full.Bulkhead == nil || full.Bulkhead.InFlight != 1 {
		t.Errorf("explained as %+v", full)
	}
	policies.set(t, `{"bulkhead":{"per_instance":1,"queue":1,"queue_timeout":"1m"}}`)
	second := make(chan int)
	go func() { second <- d.get("/proxy/user/").status }()
	close(end)
	if a, b := <-first, <-second; a != 200 || b != 200 {
		t.Errorf("the first call %d, one that waits %d", a, b)
	}
}

// The key of a call is in the cookie that a router gave, or where the policy says, and nothing
// of it is in the router: another one, and other instances, change nothing.
func TestAKeyOutlastsTheRouter(t *testing.T) {
	f := newFleet(t)
	f.policies = &policies{}
	f.policies.set(t, `{"strategy":"consistent_hash","hash_key":{"header":"x-user"}}`)
	o := router.Options{StickyCookie: "proxima_sticky"}
	d := f.router(o)
	for _, id := range []string{"a", "b", "c", "d"} {
		d.instance("user", id, zoneA, says(id))
	}
	const callers = 20
	var cookies [callers]string
	owners := func(d *door) (by [2][callers]string) {
		for i := range callers {
			a := d.get("/proxy/user/", "Cookie", cookies[i])
			if set, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";"); set != "" {
				cookies[i] = set
			}
			by[0][i] = a.body
			a = d.get("/proxy/user/", "X-User", fmt.Sprint("user-", i))
			if again := d.get("/proxy/user/", "X-User", fmt.Sprint("user-", i), "Cookie", cookies[0]); again.body != a.body {
				t.Errorf("user %d: %s, with the cookie of another caller %s", i, a.body, again.body)
			}
			by[1][i] = a.body
		}
		return by
	}
	before := owners(d)
	d.end()
	d = f.router(o)
	if now := owners(d); now != before {
		t.Errorf("after a restart of the router %v, before %v", now, before)
	}
	d.instance("user", "e", zoneA, says("e"))
	testkit.Eventually(t, "e is known", func() bool {
		return len(decode[selector.Explanation](t, d.get("/v1/explain/user").body).Instances) == 5
	})
	now := owners(d)
	for by := range now {
		for i, id := range now[by] {
			if id != before[by][i] && id != "e" {
				t.Errorf("caller %d went from %s to %s, as e came", i, before[by][i], id)
			}
		}
	}
}
