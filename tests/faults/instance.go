//go:build unix

package faults

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Instance is a real announcement, of an address that can be reached as long as
// it lives.
type Instance struct {
	ID  string
	TTL time.Duration

	announcement *kv.Announcement
	listener     net.Listener
	nc           *nats.Conn // its own, if it can die
	lives        bool
}

func (i *Instance) state() kv.State { return i.announcement.State() }

// Announce announces n instances and waits until they are registered. They
// share connections, one to each server.
func (w *World) Announce(n int, ttl time.Duration) []*Instance {
	w.t.Helper()
	added := make([]*Instance, n)
	for k := range added {
		added[k] = w.announce(w.regs[k%len(w.regs)], nil, ttl)
	}
	w.registered(added...)
	return added
}

// AnnounceApart announces n instances over that many connections, and waits
// until they are registered.
func (w *World) AnnounceApart(n int, ttl time.Duration, conns int) {
	w.t.Helper()
	regs := make([]*kv.Registry, conns)
	for k := range regs {
		name := fmt.Sprintf("announcers %d", len(w.conns)+1)
		nc := w.connect(name, w.from(k))
		w.conns = append(w.conns, nc)
		regs[k] = w.open(nc, w.line.logger(name))
	}
	added := make([]*Instance, n)
	for k := range added {
		added[k] = w.announce(regs[k%conns], nil, ttl)
	}
	w.registered(added...)
}

// AllRegistered says whether all that live are listed, as far as they know.
func (w *World) AllRegistered() bool { return w.unregistered() == "" }

// unregistered is the first living instance that is not registered, "" if all
// are.
func (w *World) unregistered() string {
	for _, i := range w.instances {
		if s := i.state(); i.lives && (!s.Registered() || s.Err != nil) {
			return fmt.Sprintf("%s is %s: %v", i.ID, s.Phase, s.Err)
		}
	}
	return ""
}

// AnnounceMortal announces an instance that can die: with a connection of its
// own, to the given servers or to all.
func (w *World) AnnounceMortal(ttl time.Duration, at ...*natstest.Process) *Instance {
	w.t.Helper()
	urls := w.URLs()
	if len(at) > 0 {
		urls = w.URLs(w.Others(at...)...)
	}
	nc := w.connect("mortal", urls)
	i := w.announce(w.open(nc, w.line.logger("mortal")), nc, ttl)
	w.registered(i)
	return i
}

func (w *World) announce(r *kv.Registry, nc *nats.Conn, ttl time.Duration) *Instance {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	go func() { // ends when the listener is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	w.named++
	i := &Instance{ID: fmt.Sprintf("i%04d", w.named), TTL: ttl, listener: l, nc: nc}
	i.announcement, err = r.Announce(events.Instance{
		ID: i.ID, Service: service, TTL: ttl, Location: topology.Location{Region: "r", Zone: fmt.Sprintf("z%d", w.named%3)},
		Endpoints: map[string]string{events.TCP: l.Addr().String()},
	}, kv.AnnounceOptions{Logger: w.line.logger("announcer of " + i.ID)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.instances = append(w.instances, i)
	return i
}

// registered waits until instances are listed.
func (w *World) registered(all ...*Instance) {
	w.t.Helper()
	for _, i := range all {
		testkit.Retry(w.t, i.ID+" is registered", func(context.Context) error {
			if s := i.state(); !s.Registered() {
				return fmt.Errorf("it is %s: %w", s.Phase, s.Err)
			}
			return nil
		})
		i.lives = true
		w.Lives(i.ID)
	}
}

// Die kills a mortal instance: it neither drains nor deregisters.
func (w *World) Die(i *Instance) {
	w.Note("%s dies", i.ID)
	i.lives = false
	w.Dies(i.ID, i.TTL)
	i.listener.Close()
	i.nc.Close()
}

// Leave deregisters an instance.
func (w *World) Leave(i *Instance) {
	w.t.Helper()
	w.Note("%s leaves", i.ID)
	i.lives = false
	w.Leaves(i.ID)
	i.close(w.t.Context())
}

// close ends what the instance has started.
func (i *Instance) close(ctx context.Context) {
	_ = i.announcement.Leave(ctx) // the servers may be gone, and this one dead
	i.listener.Close()
	if i.nc != nil {
		i.nc.Close()
	}
}

// beaconKey is the metadata that a beacon changes.
const beaconKey = "n"

// beacon is an instance that changes its record all the time, so that it shows
// how late callers see a change.
type beacon struct {
	instance *Instance
	number   atomic.Uint64 // of the newest change that was acknowledged
	stop     chan struct{}
	running  sync.WaitGroup
}

// beat is the time between two changes.
const beat = 50 * time.Millisecond

// startBeacon announces the beacon.
func (w *World) startBeacon() {
	w.t.Helper()
	i := w.Announce(1, events.DefaultTTL)[0]
	b := &beacon{instance: i, stop: make(chan struct{})}
	w.beacon = b
	b.running.Go(func() { b.run(w.Recorder) })
}

func (b *beacon) run(r *Recorder) {
	for n := uint64(1); ; n++ {
		a := b.instance.announcement
		before := a.State().Revision
		if err := a.Update(func(in *events.Instance) { in.Metadata = map[string]string{beaconKey: fmt.Sprint(n)} }); err != nil {
			return // it has left
		}
		for {
			if s := a.State(); s.Registered() && s.Err == nil && s.Revision != before {
				break
			}
			select {
			case <-b.stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
		r.Acked(n)
		b.number.Store(n)
		select {
		case <-b.stop:
			return
		case <-time.After(beat):
		}
	}
}

// Beacon is the server that the beacon is connected to now, nil for none.
func (w *World) Beacon() *natstest.Process { return w.at(w.conns[0]) }

func (b *beacon) acked() uint64 {
	if b == nil {
		return 0
	}
	return b.number.Load()
}

func (b *beacon) close() {
	if b != nil {
		close(b.stop)
		b.running.Wait()
	}
}
