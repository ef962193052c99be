package router_test

import (
	"fmt"
	"io"
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

// echo answers with the request as it came.
func echo() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		w.Header().Set("Proxima-Instance", "another")
		w.Header().Set("Nats-Service-Error", "forged")
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", "1")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s\n", r.Method, r.URL.RequestURI(), body)
		for _, name := range []string{"Host", "X-Test", "X-Two", "Proxima-From", "Nats-Msg-Id", "X-Forwarded-For", "X-Hop", "Via", "Traceparent", "User-Agent"} {
			if name == "Host" {
				fmt.Fprintf(w, "Host: %s\n", r.Host)
			} else if v := r.Header.Values(name); len(v) > 0 {
				fmt.Fprintf(w, "%s: %s\n", name, strings.Join(v, ","))
			}
		}
	})
}

func TestRoutesAMessageToTheNearestInstanceByHTTP(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u-b", zoneB, says("b"))
	d.instance("user", "u-a", zoneA, echo())

	reply, code := d.ask("proxima.route.user", "payload",
		"X-Test", "1", "x-two", "a", "x-two", "b", "Nats-Msg-Id", "7", "X-Forwarded-For", "127.0.0.1", "Connection", "x-hop", "X-Hop", "1")
	body := string(reply.Data)
	if code != "" || reply.Header.Get("Proxima-Instance") != "u-a" || reply.Header.Get("Proxima-Status") != "202" || reply.Header.Get("X-Answer") != "yes" {
		t.Errorf("got %s %v", code, reply.Header)
	}
	for _, forged := range []string{"Nats-Service-Error", "X-Hop", "Connection", "Content-Length"} {
		if reply.Header.Get(forged) != "" {
			t.Errorf("the header %s came through: %q", forged, reply.Header.Get(forged))
		}
	}
	if !strings.HasPrefix(body, "POST / payload\nHost: user\nX-Test: 1\nX-Two: a,b\nVia: 1.1 proxima-") || !strings.Contains(body, "User-Agent: proxima-router\n") {
		t.Errorf("the instance saw %s", body)
	}
	for _, hidden := range []string{"Proxima-", "Nats-", "X-Forwarded", "X-Hop"} {
		if strings.Contains(body, hidden) {
			t.Errorf("the instance saw a header %s: %s", hidden, body)
		}
	}

	reply, _ = d.ask("proxima.route.user", "", "Proxima-Method", "GET", "Proxima-Path", "/a%2Fb//c?x=1&y=%20")
	if !strings.HasPrefix(string(reply.Data), "GET /a%2Fb//c?x=1&y=%20 \n") {
		t.Errorf("the instance saw %s", reply.Data)
	}
	reply, _ = d.ask("proxima.route.user", "", "Proxima-From", "r1/b")
	if reply.Header.Get("Proxima-Instance") != "u-b" || string(reply.Data) != "b" {
		t.Errorf("from zone b: %v %s", reply.Header, reply.Data)
	}
}

func TestRoutesAMessageToASubject(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	listen := func(subject string, answer func(*nats.Msg) *nats.Msg) {
		if _, err := f.nc.Subscribe(subject, func(m *nats.Msg) { _ = m.RespondMsg(answer(m)) }); err != nil {
			t.Fatal(err)
		}
	}
	listen("echo.1", func(m *nats.Msg) *nats.Msg {
		return &nats.Msg{Data: m.Data, Header: nats.Header{"X-Saw": m.Header["X-Test"], "x-case": {fmt.Sprint(len(m.Header), m.Header["Proxima-Timeout"])}, "Proxima-Status": {"999"}}}
	})
	listen("failing.1", func(*nats.Msg) *nats.Msg {
		return &nats.Msg{Header: nats.Header{micro.ErrorCodeHeader: {"422"}, micro.ErrorHeader: {"too young"}}}
	})
	d.list(events.Instance{Service: "echo", ID: "e", Endpoints: map[string]string{"nats": "echo.1"}})
	d.list(events.Instance{Service: "failing", ID: "f", Endpoints: map[string]string{"nats": "failing.1"}})

	reply, code := d.ask("proxima.route.echo", "hello", "X-Test", "1", "Proxima-From", "r1/a", "Nats-Msg-Id", "7")
	if code != "" || string(reply.Data) != "hello" || reply.Header.Get("X-Saw") != "1" || !strings.HasPrefix(reply.Header.Get("x-case"), "2 [9.9") ||
		reply.Header.Get("Proxima-Instance") != "e" || reply.Header.Get("Proxima-Status") != "200" {
		t.Errorf("got %s %v %s", code, reply.Header, reply.Data)
	}
	// What a NATS service says of its failure is passed on as its own.
	reply, code = d.ask("proxima.route.failing", "")
	if code != "422" || reply.Header.Get(micro.ErrorHeader) != "too young" || reply.Header.Get("Proxima-Instance") != "f" || reply.Header.Get("Proxima-Status") != "422" {
		t.Errorf("got %s %v", code, reply.Header)
	}
}

// As of "announcer run --zone a" beside "router serve --region r1 --zone a".
func TestAnInstanceThatDoesNotKnowItsRegionIsCalledBeforeAnotherZone(t *testing.T) {
	f := newFleet(t)
	d, next := f.router(router.Options{}), f.router(router.Options{Selector: selector.Options{Location: zoneB}})
	d.instance("user", "near", topology.Location{Zone: "a"}, says("near"))
	d.instance("user", "next", zoneB, says("next"))
	d.instance("user", "far", topology.Location{Region: "r2", Zone: "a"}, says("far"))
	for range 100 {
		if got := d.get("/proxy/user/"); got.body != "near" {
			t.Fatalf("called %s: %d", got.body, got.status)
		}
	}
	testkit.Eventually(t, "the other router lists all", func() bool { return strings.Count(next.get("/v1/services/user").body, `"id":`) == 3 })
	if got := next.get("/proxy/user/", "Proxima-From", "r1/a"); got.body != "near" {
		t.Errorf("as seen from r1/a: called %s: %d", got.body, got.status)
	}
	if got := next.get("/proxy/user/"); got.body != "next" {
		t.Errorf("as seen from r1/b: called %s: %d", got.body, got.status)
	}
}

func TestACallWithoutAReplySubjectIsExecuted(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	called := make(chan string, 1)
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		called <- string(body)
	}))
	if err := f.nc.Publish("proxima.route.user", []byte("fire and forget")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-called:
		if got != "fire and forget" {
			t.Errorf("got %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("it was not")
	}
}

func TestACallThatNoInstanceGotGoesToTheNext(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	var calls atomic.Int64
	if _, err := f.nc.Subscribe("far.1", func(m *nats.Msg) { calls.Add(1); _ = m.Respond([]byte("far")) }); err != nil {
		t.Fatal(err)
	}
	d.list(events.Instance{Service: "user", ID: "gone", Location: zoneA, Endpoints: map[string]string{"nats": "nobody.listens"}})
	d.list(events.Instance{Service: "user", ID: "far", Location: far, Endpoints: map[string]string{"nats": "far.1"}})
	reply, code := d.ask("proxima.route.user", "", "Proxima-Method", "POST")
	if code != "" || string(reply.Data) != "far" || calls.Load() != 1 {
		t.Errorf("got %s %v %s after %d calls", code, reply.Header, reply.Data, calls.Load())
	}
}

func TestAnInstanceCannotMakeTheRouterSpeakToTheServerOrTheRegistry(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.router(router.Options{})
	var heard atomic.Int64
	for _, subject := range []string{"_INBOX.victim", "proxima.heartbeat.>", "proxima.inst.>"} {
		if _, err := f.nc.Subscribe(subject, func(m *nats.Msg) {
			if string(m.Data) == "evil payload" {
				heard.Add(1)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	var callers sync.WaitGroup // at once: each call is tried for over a second
	for i, subject := range []string{
		"_INBOX.victim", "proxima.heartbeat.user.r1.a", "proxima.inst.user.r1.a.u", "proxima.route.user",
	} {
		service := fmt.Sprint("evil", i)
		d.list(events.Instance{Service: service, ID: "e", Endpoints: map[string]string{"nats": subject}})
		callers.Go(func() {
			reply, code := d.ask("proxima.route."+service, "evil payload")
			if code != "503" || !strings.Contains(reply.Header.Get(micro.ErrorHeader), "not allowed") {
				t.Errorf("%s: got %s %v", subject, code, reply.Header)
			}
		})
	}
	callers.Wait()
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := heard.Load(); n != 0 {
		t.Errorf("%d messages went where they must not", n)
	}
}

func TestACallerCannotMakeTheRouterWriteToTheRegistry(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	var calls atomic.Int64
	d.instance("echo", "e", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		_, _ = io.Copy(w, r.Body)
	}))
	record := `{"id":"evil","service":"user","endpoints":{"http":"6.6.6.6:80"},"location":{"region":"r1","zone":"a"}}`
	for _, reply := range []string{
		"$KV.proxima.inst.user.r1.a.evil", "$JS.API.STREAM.PURGE.KV_proxima", "proxima.inst.user.r1.a.evil", "proxima.route.echo",
	} {
		if err := f.nc.PublishRequest("proxima.route.echo", reply, []byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	d.ask("proxima.route.echo", "") // the others were handled before
	if got := d.get("/v1/services"); calls.Load() != 1 || !strings.Contains(got.body, `"echo"`) || strings.Contains(got.body, `"user"`) {
		t.Errorf("%d calls were executed, and listed are %s", calls.Load(), got.body)
	}
}

func TestAnswersNATSErrorsWithTheirCodes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, func(o *server.Options) { o.MaxPayload = 256 << 10; o.MaxPending = 8 << 20 })
	d := f.router(router.Options{Timeout: 300 * time.Millisecond})
	d.instance("slow", "s", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	d.instance("big", "b", zoneA, says(strings.Repeat("x", 257<<10)))
	d.instance("heads", "h", zoneA, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := range 100 {
			w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("y", 5000))
		}
	}))
	d.instance("user", "u", zoneA, says("hello"))
	d.list(events.Instance{Service: "gone", ID: "g", Endpoints: map[string]string{"http": testkit.FreeAddress(t)}})
	d.list(events.Instance{Service: "drained", ID: "d", Status: events.NotReady, Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	d.list(events.Instance{Service: "grpc-only", ID: "g", Endpoints: map[string]string{"grpc": "127.0.0.1:9"}})
	d.list(events.Instance{Service: "mute", ID: "m", Endpoints: map[string]string{"nats": "mute.1"}})
	if _, err := f.nc.Subscribe("mute.1", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		subject, header, value, code, says string
	}{
		{"proxima.route.user", "", "", "", ""},
		{"proxima.route.nobody", "", "", "404", `unknown service "nobody"`},
		{"proxima.resolve.nobody", "", "", "404", `unknown service "nobody"`},
		{"proxima.explain.nobody", "", "", "404", `unknown service "nobody"`},
		{"proxima.route.No_Body", "", "", "400", `service "No_Body"`},
		{"proxima.route.user", "Proxima-Path", "users", "400", `Proxima-Path "users"`},
		{"proxima.route.user", "Proxima-Path", "http://10.0.0.1/", "400", "Proxima-Path"},
		{"proxima.route.user", "Proxima-Path", "/a b", "400", "Proxima-Path"},
		{"proxima.route.user", "Proxima-Path", "/%zz", "400", "Proxima-Path"},
		{"proxima.route.user", "Proxima-Method", "CONNECT", "400", "Proxima-Method"},
		{"proxima.route.user", "Proxima-Method", "GE T", "400", "Proxima-Method"},
		{"proxima.route.user", "Proxima-From", "a/b/c/d/e", "400", "Proxima-From"},
		{"proxima.resolve.user", "Proxima-From", "a b", "400", "Proxima-From"},
		{"proxima.explain.user", "Proxima-From", "a b", "400", "Proxima-From"},
		{"proxima.route.user", "X-Bad", "a\x01b", "400", "X-Bad"},
		{"proxima.route.slow", "", "", "504", "no answer in time"},
		{"proxima.route.mute", "", "", "504", "no answer in time"},
		{"proxima.route.gone", "", "", "503", "refused"},
		{"proxima.route.drained", "", "", "503", "not ready"},
		{"proxima.route.grpc-only", "", "", "503", "no usable instance"},
		{"proxima.route.big", "", "", "502", "larger than a NATS message may be"},
		{"proxima.route.heads", "", "", "502", "cannot be sent by NATS"},
	} {
		var header []string
		if tt.header != "" {
			header = []string{tt.header, tt.value}
		}
		reply, code := d.ask(tt.subject, "", header...)
		if text := reply.Header.Get(micro.ErrorHeader); code != tt.code || !strings.Contains(text, tt.says) {
			t.Errorf("%s %s=%q: got %s %q, want %s %q", tt.subject, tt.header, tt.value, code, text, tt.code, tt.says)
		}
		if code != "" && reply.Header.Get("Proxima-Instance") != "" {
			t.Errorf("%s: an instance is named for what the router answers itself", tt.subject)
		}
	}
}

func TestOneTraceFromTheCallerToTheInstance(t *testing.T) {
	f := newFleet(t)
	d := f.router(router.Options{})
	d.instance("user", "u", zoneA, echo())
	heard := make(chan string, 1)
	if _, err := f.nc.Subscribe("traced.1", func(m *nats.Msg) { heard <- m.Header.Get("traceparent"); _ = m.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	d.list(events.Instance{Service: "traced", ID: "t", Endpoints: map[string]string{"nats": "traced.1"}})
	const id = "0af7651916cd43dd8448eb211c80319c"
	const parent = "00-" + id + "-b7ad6b7169203331-01"
	if reply, _ := d.ask("proxima.route.user", "", "traceparent", parent); !strings.Contains(string(reply.Data), "Traceparent: 00-"+id) {
		t.Errorf("by NATS to HTTP: %s", reply.Data)
	}
	d.ask("proxima.route.traced", "", "traceparent", parent)
	if got := <-heard; !strings.Contains(got, id) {
		t.Errorf("by NATS to NATS: %q", got)
	}
	if got := d.get("/proxy/user/", "traceparent", parent); !strings.Contains(got.body, "Traceparent: 00-"+id) {
		t.Errorf("by HTTP: %s", got.body)
	}
}

// An instance that dies in the middle of a call may have executed it.
func TestAPOSTIsExecutedAtMostOnceWhenTheInstanceDiesInTheMiddle(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.router(router.Options{})
	var posts, gets atomic.Int64
	dies := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts.Add(1)
		} else {
			gets.Add(1)
		}
		panic(http.ErrAbortHandler) // the connection is cut, no answer
	})
	for _, id := range []string{"u1", "u2", "u3"} {
		d.instance("user", id, zoneA, dies)
	}
	if got := d.do("POST", "/proxy/user/pay", "100"); got.status != 502 || posts.Load() != 1 {
		t.Errorf("by HTTP: %d %s, executed %d times", got.status, got.body, posts.Load())
	}
	if reply, code := d.ask("proxima.route.user", "100"); code != "502" || posts.Load() != 2 {
		t.Errorf("by NATS: %s %v, executed %d times", code, reply.Header, posts.Load()-1)
	}
	if got := d.get("/proxy/user/"); got.status != 502 || gets.Load() < 2 {
		t.Errorf("a GET was tried %d times: %d %s", gets.Load(), got.status, got.body)
	}

	var requests atomic.Int64
	for _, subject := range []string{"s.1", "s.2"} {
		if _, err := f.nc.Subscribe(subject, func(m *nats.Msg) {
			requests.Add(1)
			_ = m.RespondMsg(&nats.Msg{Header: nats.Header{micro.ErrorCodeHeader: {"503"}, micro.ErrorHeader: {"half done"}}})
		}); err != nil {
			t.Fatal(err)
		}
		d.list(events.Instance{Service: "sub", ID: strings.ReplaceAll(subject, ".", ""), Endpoints: map[string]string{"nats": subject}})
	}
	if _, code := d.ask("proxima.route.sub", "100"); code != "503" || requests.Load() != 1 {
		t.Errorf("by a subject: %s, executed %d times", code, requests.Load())
	}
	if _, code := d.ask("proxima.route.sub", "", "Proxima-Method", "GET"); code != "503" || requests.Load() < 3 {
		t.Errorf("a GET by a subject: %s, executed %d times", code, requests.Load()-1)
	}
}
