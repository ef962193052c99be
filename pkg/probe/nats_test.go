package probe_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/probe"
)

const pings = "proxima.ping.user.r.z.1"

var mute = nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})

// silent is the delay of an instance that never answers.
const silent = time.Duration(-1)

// answerPings answers after d, or not at all if it is silent.
func answerPings(t *testing.T, nc *nats.Conn, d time.Duration) *nats.Subscription {
	t.Helper()
	sub, err := nc.Subscribe(pings, func(m *nats.Msg) {
		if d != silent {
			time.Sleep(d)
			_ = m.Respond(nil)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// failed wants a failure of the instance, or that it was not asked, within a
// time.
func failed(t *testing.T, p probe.Func, limit time.Duration, instance bool) {
	t.Helper()
	ctx, cancel := contextFor(t, time.Second)
	defer cancel()
	began := time.Now()
	rtt, err := p(ctx)
	if rtt != 0 || err == nil || errors.Is(err, probe.ErrNotProbed) == instance {
		t.Errorf("got %v, %v", rtt, err)
	}
	if took := time.Since(began); took > limit {
		t.Errorf("it took %v, want %v at most", took, limit)
	}
}

func TestNATSMeasuresARequest(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		nc := natstest.Connect(t, ns, mute)
		sub := answerPings(t, natstest.Connect(t, ns), 30*time.Millisecond)
		p := probe.NATS(nc, pings)
		for range 3 {
			wantRTT(t, p, 30*time.Millisecond)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		failed(t, p, 0, true) // at once
		if _, err := p(t.Context()); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("got %v", err)
		}
	})
}

func TestNATSFailsForAnInstanceThatHangs(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		answerPings(t, natstest.Connect(t, ns), silent)
		failed(t, probe.NATS(natstest.Connect(t, ns), pings), time.Second, true)
	})
}

func TestALostConnectionToNATSIsNoFailureOfTheInstance(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		sub := answerPings(t, natstest.Connect(t, ns), 0)
		w := &wire{ns: ns}
		nc := natstest.Connect(t, ns, nats.InProcessServer(w), mute, nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
		t.Cleanup(w.cut) // after nc was closed
		p := probe.NATS(nc, pings)
		wantRTT(t, p, 0)

		w.deaf.Store(true) // and neither side has noticed yet
		failed(t, p, time.Second, false)
		w.deaf.Store(false)
		wantRTT(t, p, 0)

		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		answerPings(t, natstest.Connect(t, ns), silent)
		time.AfterFunc(100*time.Millisecond, w.cut) // it is back before the time is over
		failed(t, p, time.Second, false)
		failed(t, p, time.Second, true)

		w.gone.Store(true)
		w.cut()
		time.Sleep(time.Second)
		failed(t, p, 0, false)
		nc.Close()
		failed(t, p, 0, false)
	})
	failed(t, probe.NATS(nil, pings), time.Second, false)
}

func TestAForbiddenPingIsNoFailureOfTheInstance(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t, func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "caller", Password: "x", Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Deny: []string{pings}},
				}},
				{Username: "instance", Password: "x"},
			}
		})
		answerPings(t, natstest.Connect(t, ns, nats.UserInfo("instance", "x")), silent)
		nc := natstest.Connect(t, ns, nats.UserInfo("caller", "x"), mute)
		for range 2 {
			failed(t, probe.NATS(nc, pings), time.Second, false)
		}
		failed(t, probe.NATS(nc, pings+"0"), 0, true) // that is allowed, and there is no responder
		failed(t, probe.NATS(nc, "a subject"), 0, false)
	})
}

// wire leads to a server. It is an [nats.InProcessConnProvider].
type wire struct {
	ns         *server.Server
	deaf, gone atomic.Bool // loses everything; cannot be opened

	mu   sync.Mutex
	ends []net.Conn
}

func (w *wire) InProcessConn() (net.Conn, error) {
	if w.gone.Load() {
		return nil, errRefused
	}
	far, err := w.ns.InProcessConn()
	if err != nil {
		return nil, err
	}
	near, middle := net.Pipe()
	w.mu.Lock()
	w.ends = append(w.ends, far, middle)
	w.mu.Unlock()
	go w.carry(far, middle) // both end with either end
	go w.carry(middle, far)
	return near, nil
}

func (w *wire) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if w.deaf.Load() {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut ends all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.ends {
		_ = c.Close()
	}
	w.ends = nil
}
