package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/router/guard"
	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestProxiesToTheNearestInstance(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u-b", zoneB, says("b"))
	d.instance("user", "u-a", zoneA, echo())
	got := d.do("PUT", "/proxy/user/a//b%2Fc/../d?x=1", "payload",
		"X-Test", "1", "X-Forwarded-For", "6.6.6.6", "Proxima-From", "r1/a", "Connection", "X-Hop", "X-Hop", "1")
	if got.status != 202 || got.header.Get("Proxima-Instance") != "u-a" || got.header.Get("X-Answer") != "yes" || got.header.Get("X-Hop") != "" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	if len(got.header.Values("Proxima-Instance")) != 1 || got.header.Get("Nats-Service-Error") != "" {
		t.Errorf("the instance's own headers came through: %v", got.header)
	}
	if !strings.HasPrefix(got.body, "PUT /a//b%2Fc/../d?x=1 payload\nHost: user\nX-Test: 1\nX-Forwarded-For: 127.0.0.1\nVia: 1.1 proxima-") {
		t.Errorf("the instance saw %s", got.body)
	}
	if got := d.get("/proxy/user/", "Proxima-From", "r1/b"); got.header.Get("Proxima-Instance") != "u-b" {
		t.Errorf("from zone b: %v", got.header)
	}
	if got := d.get("/proxy/user/", "Proxima-From", "a b"); got.status != 400 || !strings.Contains(got.err(), "Proxima-From") {
		t.Errorf("a bad place: %d %s", got.status, got.body)
	}
	for path, want := range map[string]string{"/proxy/user": "GET / ", "/proxy/user/": "GET / ", "/proxy/user/v1/services": "GET /v1/services "} {
		if got := d.get(path); !strings.HasPrefix(got.body, want) {
			t.Errorf("%s: the instance saw %s", path, got.body)
		}
	}
}

func TestProxiesByHost(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, echo())
	for _, host := range []string{"user.proxima", "user.proxima:8080", "USER.Proxima."} {
		got := d.get("/v1/services?a=b", "Host", host)
		if got.status != 202 || !strings.HasPrefix(got.body, "GET /v1/services?a=b ") {
			t.Errorf("%s: %d %s", host, got.status, got.body)
		}
	}
	if got := d.get("/", "Host", "a..b.proxima"); got.status != 400 {
		t.Errorf("a host that is no service: %d %s", got.status, got.body)
	}
	if got := d.get("/v1/services", "Host", "proxima"); got.status != 200 {
		t.Errorf("the router itself: %d %s", got.status, got.body)
	}
}

func TestTheAnswerIsPassedOnAsItIs(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "http://169.254.169.254/secret", http.StatusFound)
		case "/teapot":
			w.WriteHeader(http.StatusTeapot)
		case "/untyped":
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, "<html>")
		case "/trailer":
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "7")
		}
	}))
	if got := d.get("/proxy/user/redirect"); got.status != 302 || got.header.Get("Location") != "http://169.254.169.254/secret" {
		t.Errorf("a redirect was followed or changed: %d %v", got.status, got.header)
	}
	if got := d.get("/proxy/user/teapot"); got.status != 418 {
		t.Errorf("got %d", got.status)
	}
	if got := d.get("/proxy/user/untyped"); got.header.Get("Content-Type") != "" {
		t.Errorf("a type was guessed: %v", got.header)
	}
	resp, err := http.Get(d.url + "/proxy/user/trailer")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil || resp.Trailer.Get("X-Sum") != "7" {
		t.Errorf("trailer %v, %v", resp.Trailer, err)
	}
}

func TestStreamsAnAnswerAsItComes(t *testing.T) {
	t.Parallel()
	// It may take longer than the timeout, once it has begun.
	d := newFleet(t).router(router.Options{Timeout: 200 * time.Millisecond})
	next := make(chan string)
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		out := http.NewResponseController(w)
		_ = out.Flush()
		for text := range next {
			_, _ = io.WriteString(w, text)
			_ = out.Flush()
		}
	}))
	resp, err := http.Get(d.url + "/proxy/user/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for i := range 4 {
		text := fmt.Sprintf("data: %d\n\n", i)
		next <- text
		got := make([]byte, len(text))
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != text {
			t.Fatalf("got %q, %v", got, err)
		}
		time.Sleep(100 * time.Millisecond) // the stream must outlast the timeout
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

func TestASlowUploadIsNotASlowInstance(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{Timeout: time.Second})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	send, body := io.Pipe()
	go func() {
		for range 15 {
			_, _ = io.WriteString(body, "x")
			time.Sleep(100 * time.Millisecond) // more than the timeout in all
		}
		body.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), "POST", d.url+"/proxy/user/", send)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if all, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(all) != "15" {
		t.Errorf("got %d %s", resp.StatusCode, all)
	}
}

func TestAnInstanceThatDoesNotAnswerIs504AndOpensItsBreaker(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{Timeout: 50 * time.Millisecond})
	var received atomic.Int64 // on a busy machine the time may be over before the instance has the call
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		received.Add(1)
		<-r.Context().Done()
	}))
	for calls := 0; received.Load() < 5; calls++ {
		if calls == 100 {
			t.Fatalf("the instance has received %d of %d calls", received.Load(), calls)
		}
		if got := d.get("/proxy/user/"); got.status != 504 || !strings.Contains(got.err(), "no answer in time") {
			t.Fatalf("got %d %s", got.status, got.body)
		}
	}
	if got := d.get("/v1/services/user"); !strings.Contains(got.body, `"breaker":"open"`) {
		t.Errorf("after five that it received: %s", got.body)
	}
}

func TestACallerThatGoesAwayOpensNoBreaker(t *testing.T) {
	d := newFleet(t).router(router.Options{})
	inside := make(chan struct{})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		inside <- struct{}{}
		<-r.Context().Done() // and the instance hears of it
		inside <- struct{}{}
	}))
	for range 6 {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", d.url+"/proxy/user/", nil)
		if err != nil {
			t.Fatal(err)
		}
		gone := make(chan error, 1)
		go func() {
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err == nil {
				resp.Body.Close()
			}
			gone <- err
		}()
		<-inside
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		<-inside
	}
	if got := d.get("/v1/services/user"); !strings.Contains(got.body, `"breaker":"closed"`) {
		t.Errorf("got %s", got.body)
	}
}

func TestNoInstanceIs503WithTheReason(t *testing.T) {
	t.Parallel()
	d := newFleet(t).router(router.Options{})
	d.list(events.Instance{Service: "drained", ID: "d", Location: zoneA, Status: events.NotReady, Endpoints: map[string]string{"http": "127.0.0.1:9"}})
	d.list(events.Instance{Service: "grpc-only", ID: "g", Location: zoneA, Endpoints: map[string]string{"grpc": "127.0.0.1:9"}})
	gone := d.instance("gone", "g", zoneA, says(""))
	gone.Close()
	for service, reason := range map[string]string{
		"drained": "zone has 1, 1 not ready", "grpc-only": "1 with no http endpoint", "gone": "connection refused", "nobody": "not listed",
	} {
		got := d.get("/proxy/" + service + "/")
		if got.status != 503 || !strings.Contains(got.err(), reason) || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", service, got.status, got.body)
		}
	}
}

func TestOnlyAllowedNetworksAreCalled(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var called atomic.Int64
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Add(1) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &counter{Listener: l}
	srv := &httptest.Server{Listener: counted, Config: &http.Server{Handler: h, ReadHeaderTimeout: time.Second}}
	srv.Start()
	defer srv.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d := f.router(router.Options{Guard: guard.New(netip.MustParsePrefix("10.0.0.0/8"))})
	var callers sync.WaitGroup // at once: each call is tried for over a second
	for i, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		service := fmt.Sprint("s", i)
		d.list(events.Instance{Service: service, ID: "i", Location: zoneA, Endpoints: map[string]string{"http": host + ":" + port}})
		callers.Go(func() {
			if got := d.get("/proxy/" + service + "/"); got.status != 503 || !strings.Contains(got.err(), "not allowed") {
				t.Errorf("%s: got %d %s", host, got.status, got.body)
			}
			_ = d.get("/v1/services/" + service) // and it is probed
		})
		callers.Go(func() {
			if reply, code := d.ask("proxima.route."+service, ""); code != "503" {
				t.Errorf("%s by NATS: got %s %v", host, code, reply.Header)
			}
		})
	}
	callers.Wait()
	if called.Load() != 0 || counted.n.Load() != 0 {
		t.Errorf("%d calls and %d connections came through", called.Load(), counted.n.Load())
	}
	allowed := f.router(router.Options{Guard: guard.New(netip.MustParsePrefix("127.0.0.0/8"))})
	if got := allowed.get("/proxy/s0/"); got.status != 200 {
		t.Errorf("an allowed network: %d %s", got.status, got.body)
	}
}

// counter counts connections.
type counter struct {
	net.Listener
	n atomic.Int64
}

func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}
