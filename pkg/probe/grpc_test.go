package probe_test

import (
	"errors"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// serveGRPC serves gRPC without a service.
func serveGRPC(t *testing.T, lis net.Listener, o ...grpc.ServerOption) *grpc.Server {
	t.Helper()
	srv := grpc.NewServer(o...)
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

func TestProbesFollowAGRPCServerThatIsRestarted(t *testing.T) {
	for name, how := range map[string]func(*grpc.Server){"stop": (*grpc.Server).Stop, "graceful stop": (*grpc.Server).GracefulStop} {
		t.Run(name, func(t *testing.T) {
			lis := loopback(t)
			address := lis.Addr().String()
			p := probe.HTTP2(nil, address, nil)
			defer p.Close()
			for range 2 {
				srv := serveGRPC(t, lis)
				for range 5 {
					if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
						t.Fatalf("got %v, %v", rtt, err)
					}
				}
				how(srv)
				if rtt, err := p.Probe(t.Context()); err == nil || errors.Is(err, probe.ErrNotProbed) {
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

func TestGRPCOverTLS(t *testing.T) {
	web, trust, _ := secureServer(t, unimplemented, true)
	lis := loopback(t)
	serveGRPC(t, lis, grpc.Creds(credentials.NewServerTLSFromCert(&web.TLS.Certificates[0])))
	p := probe.HTTP2(nil, lis.Addr().String(), trust)
	defer p.Close()
	for range 5 {
		if rtt, err := p.Probe(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
			t.Errorf("%v, %v", rtt, err)
		}
	}
}

func TestAServerWithoutHTTP2IsAFailure(t *testing.T) {
	web, trust, _ := secureServer(t, unimplemented, false)
	address := web.Listener.Addr().String()
	old := httptest.NewServer(unimplemented)
	defer old.Close()
	plain := old.Listener.Addr().String()
	for name, p := range map[string]*probe.Session{
		"http2, TLS": probe.HTTP2(nil, address, trust),
		"http2":      probe.HTTP2(nil, plain, nil),
	} {
		rtt, err := p.Probe(t.Context())
		if rtt != 0 || err == nil || errors.Is(err, probe.ErrNotProbed) {
			t.Errorf("%s: %v, %v", name, rtt, err)
		}
		_ = p.Close()
	}
}
