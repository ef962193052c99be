package selector_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// seen counts the connections of a server and keeps its first request.
type seen struct {
	mu          sync.Mutex
	connections int
	requests    []string
}

func (s *seen) note(request string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request)
}

func (s *seen) counts() (connections int, first string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) > 0 {
		first = s.requests[0]
	}
	return s.connections, first
}

// listener counts connections and those that have ended.
type listener struct {
	net.Listener
	s    *seen
	open atomic.Int64
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	l.s.connections++
	l.s.mu.Unlock()
	l.open.Add(1)
	return &counted{Conn: c, l: l}, nil
}

type counted struct {
	net.Conn
	l    *listener
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

func listen(t *testing.T) *listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &listener{Listener: l, s: &seen{}}
}

// serveHTTP is an instance that speaks HTTP/1.1.
func serveHTTP(t *testing.T) *listener {
	t.Helper()
	l := listen(t)
	srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		l.s.note(r.Method + " " + r.URL.Path)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l
}

// serveGRPC is an instance with the standard health service.
func serveGRPC(t *testing.T) *listener {
	t.Helper()
	l := listen(t)
	srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		l.s.note(info.FullMethod + " " + req.(*grpc_health_v1.HealthCheckRequest).Service)
		return handler(ctx, req)
	}))
	h := health.NewServer()
	h.SetServingStatus("orders", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(srv, h)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return l
}

// The instance chooses how it is measured, else the caller; a way that does not fit is
// replaced by connecting.
func TestAnInstanceIsMeasuredInTheWayThatFitsIt(t *testing.T) {
	for _, x := range []struct {
		name     string
		option   selector.ProbeKind
		metadata string
		protocol string
		// The first request that its handler gets (OPTIONS * never gets there), and whether a
		// connection is kept for all probes.
		request string
		kept    bool
	}{
		{name: "by default", protocol: events.HTTP},
		{name: "caller's choice", option: selector.ProbeHTTP, protocol: events.HTTP, kept: true},
		{name: "its own choice", metadata: "http:/healthz", protocol: events.HTTP, request: "HEAD /healthz", kept: true},
		{name: "its own before the caller's", option: selector.ProbeHTTP, metadata: "connect", protocol: events.HTTP},
		{name: "no such thing", metadata: "telepathy", protocol: events.HTTP},
		{name: "grpc for http", option: selector.ProbeGRPC, protocol: events.HTTP},
		{name: "grpc, by default", protocol: events.GRPC},
		{name: "grpc, its own choice", metadata: "grpc:orders", protocol: events.GRPC, kept: true},
		{name: "http2 frames", option: selector.ProbeHTTP2, protocol: events.GRPC, kept: true},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			serve := serveHTTP
			if x.protocol == events.GRPC {
				serve = serveGRPC
			}
			l := serve(t)
			in := instance("a", topology.Location{}, endpoint(x.protocol, l.Addr().String()))
			in.Metadata = map[string]string{selector.ProbeKey: x.metadata}
			src := &fixed{make(chan events.Snapshot)}
			s, err := selector.New(t.Context(), nil, selector.Options{
				Source: src, Probe: selector.Probe{Kind: x.option}, Logger: silent,
				Latency: latency.Options{Interval: 40 * time.Millisecond, Budget: -1},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			go func() { src.lists <- events.Snapshot{Service: "user", Entries: []events.Entry{in}} }()
			if _, err := s.Pick(t.Context(), "user"); err != nil {
				t.Fatal(err)
			}
			probes := func() int { return int(s.Stats().Latency.Probes) }
			testkit.Eventually(t, "measured", func() bool {
				e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
				return err == nil && e.Instances[0].DistanceSource == "measured"
			})
			testkit.Eventually(t, "measured again", func() bool { return probes() >= 6 })
			connections, request := l.s.counts()
			if request != x.request {
				t.Errorf("it was asked %q, want %q", request, x.request)
			}
			if kept := connections == 1; kept != x.kept {
				t.Errorf("%d connections for %d probes, kept should be %t", connections, probes(), x.kept)
			}

			// No connection to an instance that left is kept.
			src.lists <- events.Snapshot{Service: "user"}
			testkit.Eventually(t, "its connections are closed", func() bool { return l.open.Load() == 0 })
		})
	}
}

func TestAnInstanceWithProbeNoneIsNotProbed(t *testing.T) {
	l := serveHTTP(t)
	in := instance("a", home, endpoint(events.HTTP, l.Addr().String()))
	in.Metadata = map[string]string{selector.ProbeKey: "none"}
	s := openAlways(t, selector.Options{Latency: latency.Options{Interval: 10 * time.Millisecond, Budget: -1}}, in)
	if _, err := s.Pick(t.Context(), "user"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if n, _ := l.s.counts(); n > 0 || s.Stats().Latency.Probes > 0 {
		t.Errorf("%d connections, %d probes", n, s.Stats().Latency.Probes)
	}
}

func TestOptionsRefuseAnUnknownProbe(t *testing.T) {
	_, err := selector.New(t.Context(), nil, selector.Options{Source: always(), Probe: selector.Probe{Kind: "icmp"}})
	if err == nil || !strings.Contains(err.Error(), `"icmp", want connect, http, http2, grpc, nats or none`) {
		t.Errorf("%v", err)
	}
}

// An instance that is called through NATS is measured through NATS, without
// being called.
func TestAnInstanceBehindASubjectIsMeasuredByItsAnnouncement(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		nc := natstest.Connect(t, ns)
		r, err := kv.Open(t.Context(), nc, kv.Options{Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		var calls atomic.Int64
		if _, err := nc.Subscribe("svc.user", func(*nats.Msg) { calls.Add(1) }); err != nil {
			t.Fatal(err)
		}
		a := announce(t, r, instance("a", home, endpoint(events.NATS, "svc.user")))
		testkit.Eventually(t, "listed", func() bool { return a.State().Registered() })
		s, err := selector.New(t.Context(), natstest.Connect(t, ns), selector.Options{Location: home, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		p, err := s.Pick(t.Context(), "user")
		if err != nil {
			t.Fatal(err)
		}
		p.Done(nil)
		// In a bubble a round trip takes no time, which is no sample: the test can only see
		// that it was probed and that no probe failed.
		testkit.Eventually(t, "probed", func() bool { return s.Stats().Latency.Probes >= 3 })
		if n := calls.Load(); n > 0 {
			t.Errorf("it was called %d times", n)
		}
	})
}

// A caller whose own probes hang knows at its first pick what its zone has measured,
// over a real NATS server.
func TestANewcomerOfAZonePicksTheNearestAtOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		r, err := kv.Open(t.Context(), natstest.Connect(t, ns), kv.Options{Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		var d distances
		for i := range 5 {
			a := announce(t, r, d.at(fmt.Sprint("i", i), farAway, time.Duration(100-20*i)*time.Millisecond))
			testkit.Eventually(t, "listed", func() bool { return a.State().Registered() })
		}
		open := func(dial func(context.Context, string, string) (net.Conn, error)) *selector.Selector {
			s, err := selector.New(t.Context(), natstest.Connect(t, ns), selector.Options{
				Location: home, Logger: silent, Latency: latency.Options{Dial: dial},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return s
		}
		old := open(d.dial)
		if _, err := old.Pick(t.Context(), "user"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)

		for range 20 {
			s := open(func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			p, err := s.Pick(t.Context(), "user")
			if err != nil || p.ID != "i4" {
				t.Fatalf("picked %s, %v, want i4", p.ID, err)
			}
			e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
			if err != nil || e.Instances[0].DistanceSource != "shared" || e.Instances[0].DistanceMS != 20 {
				t.Fatalf("%+v, %v", e.Instances[0].Standing, err)
			}
			_ = s.Close()
		}
	})
}
