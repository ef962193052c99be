package router_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestResolvesAndExplainsByNATS(t *testing.T) {
	f := newFleet(t, func(o *server.Options) { o.MaxPayload = 64 << 10; o.MaxPending = 8 << 20 })
	d := f.router(router.Options{})
	three(d)
	reply, code := d.ask("proxima.resolve.user", "", "Proxima-From", "r1/b")
	list := decode[router.Instances](t, string(reply.Data))
	if code != "" || len(list.Instances) != 3 || list.Instances[0].ID != "u-b" || list.Truncated {
		t.Errorf("got %s %s", code, reply.Data)
	}
	reply, code = d.ask("proxima.explain.user", "")
	e := decode[selector.Explanation](t, string(reply.Data))
	if code != "" || len(e.Instances) != 3 || e.Instances[0].ID != "u-a" || e.Instances[0].Reason == "" {
		t.Errorf("got %s %s", code, reply.Data)
	}
	// What does not fit into a message is left out from the far end.
	for i := range 300 {
		if _, err := f.reg.Register(t.Context(), events.Instance{
			Service: "many", ID: fmt.Sprint("i", i), Location: []topology.Location{far, zoneA}[i%2], TTL: time.Hour,
			Endpoints: map[string]string{"nats": "many"}, Metadata: map[string]string{"fill": strings.Repeat("x", 200)},
		}, 0); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "all 300 are seen", func() bool { return strings.Contains(d.get("/v1/services").body, `"instances":300`) })
	reply, _ = d.ask("proxima.resolve.many", "")
	list = decode[router.Instances](t, string(reply.Data))
	if n := len(list.Instances); n < 50 || n >= 300 || !list.Truncated || list.Instances[0].Circle != "zone" {
		t.Errorf("got %d instances, truncated %v", n, list.Truncated)
	}
	reply, _ = d.ask("proxima.explain.many", "")
	if e := decode[selector.Explanation](t, string(reply.Data)); len(e.Instances) < 50 || len(e.Instances) >= 300 {
		t.Errorf("explained %d instances", len(e.Instances))
	}
}

func TestASlowInstanceDoesNotHoldUpOthers(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	release := make(chan struct{})
	d.instance("slow", "s", zoneA, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	d.instance("user", "u", zoneA, says("hello"))
	inbox := d.nc.NewInbox()
	answers, err := d.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := d.nc.PublishRequest("proxima.route.slow", inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	if reply, code := d.ask("proxima.route.user", ""); code != "" || string(reply.Data) != "hello" {
		t.Errorf("got %s %s", code, reply.Data)
	}
	close(release)
	for i := range 20 {
		if _, err := answers.NextMsg(5 * time.Second); err != nil {
			t.Fatalf("after %d answers: %v", i, err)
		}
	}
}

func TestMoreCallsThanAllowedAreRefusedAtOnce(t *testing.T) {
	d := newFleet(t).router(router.Options{Concurrency: 3})
	release := make(chan struct{})
	var inside sync.WaitGroup
	inside.Add(3)
	d.instance("slow", "s", zoneA, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Done(); <-release }))
	inbox := d.nc.NewInbox()
	answers, err := d.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := d.nc.PublishRequest("proxima.route.slow", inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	inside.Wait()
	if reply, code := d.ask("proxima.route.slow", ""); code != "503" || !strings.Contains(reply.Header.Get(micro.ErrorHeader), "too many calls") {
		t.Errorf("the fourth: %s %v", code, reply.Header)
	}
	close(release)
	for range 3 {
		if m, err := answers.NextMsg(5 * time.Second); err != nil || m.Header.Get("Proxima-Status") != "200" {
			t.Errorf("%v %v", m, err)
		}
	}
	testkit.Eventually(t, "there is room again", func() bool {
		_, code := d.ask("proxima.resolve.slow", "")
		return code == ""
	})
}

func TestTwoRoutersExecuteACallOnce(t *testing.T) {
	f := newFleet(t)
	var calls atomic.Int64
	first := f.router(router.Options{})
	second := f.router(router.Options{Selector: selector.Options{Location: zoneB}}) // of another zone
	first.instance("user", "u", zoneA, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { calls.Add(1) }))
	testkit.Eventually(t, "both know the service", func() bool { return second.get("/v1/services/user").status == 200 })
	for range 200 {
		if _, code := first.ask("proxima.route.user", ""); code != "" {
			t.Fatal(code)
		}
	}
	if n := calls.Load(); n != 200 {
		t.Errorf("200 calls were executed %d times", n)
	}
}

func TestCallsThatRunWhenARouterStopsAreAnswered(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	const calls = 600
	release := make(chan struct{})
	if _, err := f.nc.Subscribe("user.u", func(m *nats.Msg) { <-release; _ = m.Respond([]byte("done")) }); err != nil {
		t.Fatal(err)
	}
	d.list(onSubject("user", "u", "user.u"))
	inbox := f.nc.NewInbox()
	answers, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	for range calls {
		if err := f.nc.PublishRequest("proxima.route.user", inbox, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.nc.Flush(); err != nil { // the server has them all, the router perhaps not
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { d.end(); close(stopped) }()
	testkit.Eventually(t, "no router takes calls any more", func() bool {
		_, err := f.nc.Request("proxima.resolve.user", nil, time.Second)
		return err == nats.ErrNoResponders //nolint:errorlint // as nats.go returns it
	})
	close(release)
	for i := range calls {
		m, err := answers.NextMsg(5 * time.Second)
		if err != nil || string(m.Data) != "done" {
			t.Fatalf("answer %d: %v %v", i, m, err)
		}
	}
	<-stopped
}

func TestCallsThatDoNotEndAreGivenUp(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{Grace: 50 * time.Millisecond, Timeout: time.Hour})
	inside := make(chan struct{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(inside)
		<-r.Context().Done()
	}))
	inbox := f.nc.NewInbox()
	answers, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.nc.PublishRequest("proxima.route.user", inbox, nil); err != nil {
		t.Fatal(err)
	}
	<-inside
	began := time.Now()
	d.end()
	if m, err := answers.NextMsg(5 * time.Second); err != nil || m.Header.Get(micro.ErrorCodeHeader) != "503" {
		t.Errorf("the caller hears %v, %v", m, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

func TestIsFoundAsANATSService(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, says("hello"))
	d.ask("proxima.route.user", "")
	d.ask("proxima.route.nobody", "")
	reply, err := d.nc.Request("$SRV.INFO.proxima", nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	info := decode[micro.Info](t, string(reply.Data))
	subjects := map[string]bool{}
	for _, e := range info.Endpoints {
		subjects[e.Subject] = e.QueueGroup != ""
	}
	if !subjects["proxima.route.>"] || !subjects["proxima.resolve.>"] || !subjects["proxima.explain.>"] || info.Metadata["location"] != "r1/a" {
		t.Errorf("got %s", reply.Data)
	}
	if reply, err = d.nc.Request("$SRV.STATS.proxima", nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, e := range decode[micro.Stats](t, string(reply.Data)).Endpoints {
		if e.Name != "route" {
			continue
		}
		var counts struct{ Answers, Errors int }
		if err := json.Unmarshal(e.Data, &counts); err != nil || counts.Answers != 2 || counts.Errors != 1 {
			t.Errorf("got %s, %v", e.Data, err)
		}
	}
}
