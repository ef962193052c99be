package latency_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// serveGRPC serves, with a health service if there is one.
func serveGRPC(t *testing.T, lis net.Listener, h *health.Server, o ...grpc.ServerOption) *grpc.Server {
	t.Helper()
	srv := grpc.NewServer(o...)
	if h != nil {
		healthpb.RegisterHealthServer(srv, h)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() {
		srv.Stop()
		serving.Wait()
	})
	return srv
}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

func TestGRPCHealthJudgesTheStatus(t *testing.T) {
	for _, tt := range []struct {
		service string
		set     healthpb.HealthCheckResponse_ServingStatus
		fails   string
	}{
		{"", healthpb.HealthCheckResponse_SERVING, ""},
		{"user.v1.User", healthpb.HealthCheckResponse_SERVING, ""},
		{"", healthpb.HealthCheckResponse_NOT_SERVING, "health status 2"},
		{"user.v1.User", healthpb.HealthCheckResponse_NOT_SERVING, "health status 2"},
		{"user.v1.User", healthpb.HealthCheckResponse_UNKNOWN, "health status 0"},
		{"nobody", healthpb.HealthCheckResponse_SERVING, `gRPC status 5: "unknown service"`},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := newMemory(t, delay)
			h := health.NewServer()
			if tt.service != "nobody" {
				h.SetServingStatus(tt.service, tt.set)
			}
			serveGRPC(t, m, h)
			p := latency.GRPCHealth(m.Dial, "10.0.0.1:80", tt.service, nil)
			defer p.Close()
			for range 3 {
				if tt.fails == "" {
					probe(t, p.Probe, 2*delay)
					continue
				}
				rtt, err := p.Probe(t.Context())
				if rtt != 0 || err == nil || !strings.Contains(err.Error(), tt.fails) || errors.Is(err, latency.ErrNotProbed) {
					t.Errorf("%q %v: %v, %v", tt.service, tt.set, rtt, err)
				}
			}
			if m.dialled() != 1 {
				t.Errorf("%q %v: %d connections, want 1", tt.service, tt.set, m.dialled())
			}
		})
	}
}

func TestAGRPCServerWithoutAHealthServiceIsReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		serveGRPC(t, m, nil)
		p := latency.GRPCHealth(m.Dial, "10.0.0.1:80", "", nil)
		defer p.Close()
		for range 3 {
			probe(t, p.Probe, 2*delay)
		}
	})
}

func TestProbesFollowAGRPCServerThatIsRestarted(t *testing.T) {
	for name, make := range keepers {
		if name == "http" {
			continue
		}
		for _, how := range []func(*grpc.Server){(*grpc.Server).Stop, (*grpc.Server).GracefulStop} {
			t.Run(name, func(t *testing.T) {
				lis := loopback(t)
				address := lis.Addr().String()
				p := make(func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, address)
				})
				defer p.Close()
				for range 2 {
					srv := serveGRPC(t, lis, health.NewServer())
					for range 5 {
						if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
							t.Fatalf("got %v, %v", rtt, err)
						}
					}
					how(srv)
					if rtt, err := p.Probe(t.Context()); err == nil || errors.Is(err, latency.ErrNotProbed) {
						t.Errorf("when it is stopped: %v, %v", rtt, err)
					}
					var err error
					if lis, err = net.Listen("tcp", address); err != nil {
						t.Fatal(err)
					}
				}
				_ = lis.Close()
			})
		}
	}
}

func TestGRPCOverTLS(t *testing.T) {
	web, trust, _ := secureServer(t, unimplemented, true)
	lis := loopback(t)
	serveGRPC(t, lis, health.NewServer(), grpc.Creds(credentials.NewServerTLSFromCert(&web.TLS.Certificates[0])))
	for name, p := range map[string]*latency.Ping{
		"grpc":  latency.GRPCHealth(nil, lis.Addr().String(), "", trust),
		"http2": latency.HTTP2Ping(nil, lis.Addr().String(), trust),
	} {
		for range 5 {
			if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
				t.Errorf("%s: %v, %v", name, rtt, err)
			}
		}
		_ = p.Close()
	}
}

func TestWhatSpeaksNoHTTP2IsAFailure(t *testing.T) {
	web, trust, _ := secureServer(t, unimplemented, false)
	address := web.Listener.Addr().String()
	old := httptest.NewServer(unimplemented)
	defer old.Close()
	plain := old.Listener.Addr().String()
	for name, p := range map[string]*latency.Ping{
		"grpc, TLS":  latency.GRPCHealth(nil, address, "", trust),
		"http2, TLS": latency.HTTP2Ping(nil, address, trust),
		"grpc":       latency.GRPCHealth(nil, plain, "", nil),
		"http2":      latency.HTTP2Ping(nil, plain, nil),
	} {
		rtt, err := p.Probe(t.Context())
		if rtt != 0 || err == nil || errors.Is(err, latency.ErrNotProbed) {
			t.Errorf("%s: %v, %v", name, rtt, err)
		}
		_ = p.Close()
	}
}

func TestAnHTTP2ServerThatIsNoGRPCServerFailsItsHealthCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		serveHTTP(t, m, http.NotFoundHandler())
		p := latency.GRPCHealth(m.Dial, "10.0.0.1:80", "", nil)
		defer p.Close()
		if rtt, err := p.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "status 404, and no gRPC status") {
			t.Errorf("got %v, %v", rtt, err)
		}
	})
}

func TestHealthRequestsAreProtobuf(t *testing.T) {
	for _, service := range []string{"", "user.v1.User", strings.Repeat("x", 1000)} {
		data := latency.HealthRequest(service)
		var got healthpb.HealthCheckRequest
		if data[0] != 0 || int(binary.BigEndian.Uint32(data[1:])) != len(data)-5 {
			t.Errorf("%q: prefix % x for %d bytes", service, data[:5], len(data)-5)
		}
		if err := proto.Unmarshal(data[5:], &got); err != nil || got.GetService() != service {
			t.Errorf("%q: %q, %v", service, got.GetService(), err)
		}
	}
}

// FuzzHealthStatus compares with the protobuf library.
func FuzzHealthStatus(f *testing.F) {
	for _, message := range []string{"", "\x08\x01", "\x08\x02", "\x12\x03abc\x08\x01", "\x0d\x01\x02\x03\x04\x08\x01\x08\x02", "\x11\x01\x02\x03\x04\x05\x06\x07\x08", "\x08", "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		f.Add(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	}
	f.Add([]byte("\x00\x00\x00\x00\x05\x08\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		status, err := latency.HealthStatus(data)
		if err != nil {
			return
		}
		var want healthpb.HealthCheckResponse
		if err := proto.Unmarshal(data[5:], &want); err != nil {
			return // of fields that are not ours, it wants more
		}
		if status != int32(want.GetStatus()) {
			t.Errorf("% x is %d, want %d", data, status, want.GetStatus())
		}
	})
}
