package selector_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// pipes is a listener in memory.
type pipes struct {
	conns chan net.Conn
	ended context.Context
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended.Done():
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// processes are instances in memory that speak HTTP. Connections to those that are stopped
// are accepted by their kernels alone.
type processes struct {
	listener *pipes
	stopped  func(address string) bool
}

func newProcesses(t *testing.T, stopped func(address string) bool) *processes {
	t.Helper()
	p := &processes{&pipes{make(chan net.Conn), t.Context()}, stopped}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Hour}
	go func() { _ = server.Serve(p.listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return p
}

func (p *processes) dial(ctx context.Context, _, address string) (net.Conn, error) {
	here, there := net.Pipe()
	if p.stopped(address) {
		return here, nil
	}
	select {
	case p.listener.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// The first call of a caller, which cannot know what calls take, and a call that takes longer
// than all before it, while no other one is in flight to the instance.
func TestALongCallIsGivenUpOnlyIfTheInstanceIsSilent(t *testing.T) {
	const hour = time.Hour
	for _, tt := range []struct {
		name     string
		deadline time.Duration // 0: none
		takes    time.Duration // at the first instance that is called
		stopped  time.Duration // when the process stops; 0: never
		attempts int
		most     time.Duration // that it takes the first call
	}{
		{"it works", 5500 * time.Millisecond, 4800 * time.Millisecond, 0, 1, 4800 * time.Millisecond},
		{"it works", 6 * time.Second, 5 * time.Second, 0, 1, 5 * time.Second},
		{"it works", 7 * time.Second, 5 * time.Second, 0, 1, 5 * time.Second},
		{"it works", 8 * time.Second, 5 * time.Second, 0, 1, 5 * time.Second},
		{"it works", hour, 10 * time.Minute, 0, 1, 10 * time.Minute},
		{"it works", 0, 50 * time.Second, 0, 1, 50 * time.Second},
		{"it is stopped", 2 * time.Second, hour, 1, 2, 1500 * time.Millisecond},
		{"it is stopped", 6 * time.Second, hour, 1, 2, 5 * time.Second},
		{"it is stopped", 10 * time.Second, hour, 1, 2, 8 * time.Second},
		{"it is stopped", 0, hour, 1, 2, 17 * time.Second},
		{"it stops later", 20 * time.Second, hour, 13 * time.Second, 2, 16 * time.Second},
		{"it answers probes only", 2 * time.Second, hour, 0, 2, 1900 * time.Millisecond},
		{"it answers probes only", 8 * time.Second, hour, 0, 2, 7500 * time.Millisecond},
		{"it answers probes only", 0, hour, 0, 2, time.Minute + time.Second},
	} {
		for _, before := range []int{0, 50} {
			t.Run(fmt.Sprint(tt.name, " ", tt.deadline, " after ", before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var stopped atomic.Pointer[string]
					o := selector.Options{}
					o.Latency.Dial = newProcesses(t, func(address string) bool {
						id := stopped.Load()
						return id != nil && address == *id+".example:80"
					}).dial
					w := start(t, o, instance("a", home, endpoint(events.HTTP, "a.example:80")), instance("b", home, endpoint(events.HTTP, "b.example:80")))
					for range before {
						_ = w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error { return serveFor(ctx, 20*time.Millisecond) })
					}
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if tt.deadline > 0 {
						ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					}
					defer cancel()
					attempts := 0
					began := time.Now()
					err := w.Do(ctx, "user", func(ctx context.Context, in *events.Instance) error {
						if attempts++; attempts > 1 {
							return serveFor(ctx, 20*time.Millisecond)
						}
						if tt.stopped > 0 {
							time.AfterFunc(tt.stopped, func() { stopped.Store(&in.ID) })
						}
						return serveFor(ctx, tt.takes)
					})
					if took := time.Since(began); err != nil || attempts != tt.attempts || took > tt.most+100*time.Millisecond || before > 0 && tt.stopped == 1 && took > 2*time.Second {
						t.Errorf("%d attempts, %v after %v", attempts, err, took)
					}
				})
			})
		}
	}
}

// Several calls hang in a process that answers probes: that is no long call.
func TestCallsThatHangTogetherAreGivenUpThoughTheInstanceAnswersProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := selector.Options{}
		o.Latency.Dial = newProcesses(t, func(string) bool { return false }).dial
		w := start(t, o, instance("a", home, endpoint(events.HTTP, "a.example:80")), instance("b", home, endpoint(events.HTTP, "b.example:80")))
		var hangs atomic.Bool
		var slow atomic.Int64
		call := func() {
			began := time.Now()
			err := w.Do(t.Context(), "user", func(ctx context.Context, in *events.Instance) error {
				if hangs.Load() && in.ID == "a" {
					return serveFor(ctx, time.Hour)
				}
				return serveFor(ctx, 20*time.Millisecond)
			})
			if took := time.Since(began); err != nil || took > 2500*time.Millisecond {
				t.Errorf("%v after %v", err, took)
			} else if took > time.Second {
				slow.Add(1)
			}
		}
		w.open(5*time.Second, 100, call)
		hangs.Store(true)
		w.open(20*time.Second, 100, call)
		if slow.Load() == 0 {
			t.Error("no call met the instance")
		}
	})
}

// An instance that the operator does not want to be probed, and one that cannot be.
func TestAnInstanceThatIsNotProbedIsNotAskedWhetherItLives(t *testing.T) {
	for _, change := range []func(*events.Entry){label(selector.ProbeKey, string(selector.ProbeNone)), endpoint(events.TCP, "x.example:80")} {
		synctest.Test(t, func(t *testing.T) {
			dialled := 0
			o := selector.Options{Probe: selector.Probe{Kind: selector.ProbeNone}}
			o.Latency.Dial = func(context.Context, string, string) (net.Conn, error) {
				dialled++
				return nil, errors.New("no")
			}
			w := start(t, o,
				instance("a", home, endpoint(events.HTTP, "a.example:80"), change), instance("b", home, endpoint(events.HTTP, "b.example:80"), change))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			attempts := 0
			err := w.Do(ctx, "user", func(ctx context.Context, _ *events.Instance) error {
				if attempts++; attempts > 1 {
					return nil
				}
				return serveFor(ctx, time.Hour)
			})
			if err != nil || dialled > 0 {
				t.Errorf("%v, dialled %d times", err, dialled)
			}
		})
	}
}
