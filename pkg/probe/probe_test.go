package probe_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/probe"
)

const delay = 20 * time.Millisecond // of memory, one way

// wantRTT probes, and wants this round trip.
func wantRTT(t *testing.T, p probe.Func, want time.Duration) {
	t.Helper()
	if rtt, err := p(t.Context()); err != nil || rtt != want {
		t.Errorf("got %v, %v, want %v", rtt, err, want)
	}
}

// serveHTTP serves cleartext HTTP, versions 1 and 2, over the network.
func serveHTTP(t *testing.T, m *memory, h http.Handler) *http.Server {
	t.Helper()
	versions := new(http.Protocols)
	versions.SetHTTP1(true)
	versions.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: versions}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(m) })
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return srv
}

// keepers are the probes that keep a connection.
var keepers = map[string]func(dial probe.Dial) *probe.Session{
	"http":  func(dial probe.Dial) *probe.Session { return probe.HTTP(dial, "10.0.0.1:80", "", nil) },
	"http2": func(dial probe.Dial) *probe.Session { return probe.HTTP2(dial, "10.0.0.1:80", nil) },
}

// eachKeeper runs f with every keeper of a connection to a server that answers
// all of them at once.
func eachKeeper(t *testing.T, f func(*testing.T, *memory, *http.Server, *probe.Session)) {
	for name, make := range keepers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, delay)
				srv := serveHTTP(t, m, unimplemented)
				p := make(m.Dial)
				t.Cleanup(func() { _ = p.Close() })
				f(t, m, srv, p)
			})
		})
	}
}

// unimplemented answers every call as a gRPC server without services does.
var unimplemented = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Status", "12")
})

func TestMain(m *testing.M) {
	testkit.AtOnce(8)
	m.Run()
}

func TestConnectMeasuresTheOpeningOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t, delay)
		for range 3 {
			wantRTT(t, probe.Connect(m.Dial, "10.0.0.1:80"), 2*delay)
		}
		if m.dialled() != 3 || m.kept() != 0 {
			t.Errorf("%d dials, %d connections kept", m.dialled(), m.kept())
		}
	})
}

func TestAConnectionIsOpenedOnceAndNotMeasured(t *testing.T) {
	eachKeeper(t, func(t *testing.T, m *memory, _ *http.Server, p *probe.Session) {
		for range 50 {
			wantRTT(t, p.Probe, 2*delay)
			time.Sleep(10 * time.Second)
		}
		if n := m.dialled(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

func TestAConnectionThatBrokeIsOpenedAgain(t *testing.T) {
	eachKeeper(t, func(t *testing.T, m *memory, _ *http.Server, p *probe.Session) {
		for i := range 4 {
			wantRTT(t, p.Probe, 2*delay)
			if n := m.dialled(); n != i+1 {
				t.Errorf("%d connections, want %d", n, i+1)
			}
			m.cut()
			if i%2 == 0 {
				synctest.Wait() // else the probe finds out
			}
		}
	})
}

func TestAConnectionThatIsNotUsedIsClosed(t *testing.T) {
	eachKeeper(t, func(t *testing.T, m *memory, _ *http.Server, p *probe.Session) {
		wantRTT(t, p.Probe, 2*delay)
		time.Sleep(2*time.Minute - time.Second)
		wantRTT(t, p.Probe, 2*delay)
		time.Sleep(2*time.Minute - time.Second)
		if m.kept() != 1 || m.dialled() != 1 {
			t.Errorf("%d kept of %d, want 1 of 1", m.kept(), m.dialled())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if m.kept() != 0 {
			t.Errorf("%d connections kept", m.kept())
		}
		wantRTT(t, p.Probe, 2*delay)
	})
}

func TestAnInstanceThatHasEndedIsAFailure(t *testing.T) {
	eachKeeper(t, func(t *testing.T, m *memory, srv *http.Server, p *probe.Session) {
		wantRTT(t, p.Probe, 2*delay)
		_ = srv.Close()
		_ = m.Close()
		for range 2 {
			rtt, err := p.Probe(t.Context())
			if rtt != 0 || !errors.Is(err, errRefused) || errors.Is(err, probe.ErrNotProbed) {
				t.Errorf("got %v, %v, want %v", rtt, err, errRefused)
			}
		}
	})
}

func TestAnInstanceThatHangsCostsTheTimeOfTheProbe(t *testing.T) {
	for name, make := range keepers {
		for _, limit := range []time.Duration{100 * time.Millisecond, 0} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := newMemory(t, delay) // no server accepts
					p := make(m.Dial)
					ctx, cancel, want := t.Context(), func() {}, 10*time.Second
					if limit > 0 {
						ctx, cancel = context.WithTimeout(ctx, limit)
						want = limit
					}
					defer cancel()
					began := time.Now()
					rtt, err := p.Probe(ctx)
					if rtt != 0 || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, probe.ErrNotProbed) {
						t.Errorf("got %v, %v", rtt, err)
					}
					if took := time.Since(began); took != want {
						t.Errorf("took %v, want %v", took, want)
					}
					synctest.Wait()
					if n := m.kept(); n != 0 {
						t.Errorf("%d connections kept", n)
					}
					_ = p.Close()
				})
			})
		}
	}
}

func TestCloseEndsAProbeAndAllLaterOnes(t *testing.T) {
	for name, make := range keepers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory(t, delay) // no server accepts
				p := make(m.Dial)
				var probes sync.WaitGroup
				for range 2 { // one of them waits for its turn
					probes.Go(func() {
						if rtt, err := p.Probe(t.Context()); rtt != 0 || !errors.Is(err, probe.ErrNotProbed) {
							t.Errorf("while it is closed: %v, %v", rtt, err)
						}
					})
				}
				time.Sleep(time.Second)
				began := time.Now()
				for range 2 {
					if err := p.Close(); err != nil {
						t.Error(err)
					}
				}
				probes.Wait()
				synctest.Wait()
				if took := time.Since(began); took != 0 || m.kept() != 0 {
					t.Errorf("it took %v, %d connections are kept", took, m.kept())
				}
				if rtt, err := p.Probe(t.Context()); rtt != 0 || !errors.Is(err, probe.ErrNotProbed) {
					t.Errorf("afterwards: %v, %v", rtt, err)
				}
			})
		})
	}
}

func TestProbesOverOneConnectionTakeTurns(t *testing.T) {
	eachKeeper(t, func(t *testing.T, m *memory, _ *http.Server, p *probe.Session) {
		var probes sync.WaitGroup
		for range 8 {
			probes.Go(func() { wantRTT(t, p.Probe, 2*delay) })
		}
		probes.Wait()
		if n := m.dialled(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

// listen is a server on the loopback interface that does what f does with
// every connection.
func listen(t *testing.T, f func(net.Conn)) (address string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				f(conn)
			})
		}
	})
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { _ = lis.Close() })
	return lis.Addr().String()
}

func contextFor(t *testing.T, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), limit)
}
