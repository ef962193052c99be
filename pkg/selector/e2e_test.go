package selector_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// announce lists an instance in a real registry until the test ends or it
// leaves.
func announce(t *testing.T, r *kv.Registry, e events.Entry) *kv.Announcement {
	t.Helper()
	a, err := r.Announce(*e.Instance, kv.AnnounceOptions{Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Leave(context.Background()) })
	return a
}

func TestFollowsARealRegistry(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		r, err := kv.Open(t.Context(), natstest.Connect(t, ns), kv.Options{Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		var d distances
		here := announce(t, r, d.at("here", home, time.Millisecond))
		door := announce(t, r, d.at("door", nextDoor, 2*time.Millisecond))
		o := selector.Options{Location: home, Logger: silent}
		o.Latency.Dial = d.dial
		testkit.Eventually(t, "both are listed", func() bool { return here.State().Registered() && door.State().Registered() })

		s, err := selector.New(t.Context(), natstest.Connect(t, ns), o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		picked := func() string {
			p, err := s.Pick(t.Context(), "user")
			p.Done(err)
			if err != nil {
				return err.Error()
			}
			return p.ID
		}
		if got := picked(); got != "here" {
			t.Errorf("picked %s, want here", got)
		}
		if err := here.Update(func(in *events.Instance) { in.Status = events.Draining }); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "a draining instance is left alone", func() bool { return picked() == "door" })
		if err := here.Update(func(in *events.Instance) { in.Status = events.Up }); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "it comes back", func() bool { return picked() == "here" })
		if err := here.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "it has left", func() bool { return picked() == "door" })

		// The registry is gone: the view stays, marked stale.
		natstest.Stop(ns)
		testkit.Eventually(t, "the view is stale", func() bool {
			e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
			return err == nil && e.Stale
		})
		if got := picked(); got != "door" {
			t.Errorf("picked %s without a registry, want door", got)
		}
		if _, err := s.Pick(t.Context(), "other"); !errors.Is(err, selector.ErrNoSnapshot) {
			t.Errorf("error %v, want ErrNoSnapshot", err)
		}
	})
}

// wire connects to the server that runs now, if one does.
type wire struct{ to atomic.Pointer[server.Server] }

func (w *wire) InProcessConn() (net.Conn, error) {
	if ns := w.to.Load(); ns != nil {
		return ns.InProcessConn()
	}
	return nil, errors.New("no server")
}

func TestStartsBeforeItsRegistryAndThroughItsRestart(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		store := func(o *server.Options) { o.StoreDir = dir }
		var w wire
		connect := func() *nats.Conn {
			nc, err := nats.Connect("", nats.InProcessServer(&w), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
				nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			return nc
		}
		s, err := selector.New(t.Context(), connect(), selector.Options{Location: home, Logger: silent, FirstSnapshot: 20 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		var first sync.WaitGroup
		first.Go(func() { // waits for the registry
			if _, err := s.Pick(t.Context(), "user"); !errors.Is(err, selector.ErrUnknownService) {
				t.Errorf("error %v, want ErrUnknownService", err)
			}
		})
		time.Sleep(5 * time.Second)
		ns := natstest.Start(t, store)
		w.to.Store(ns)
		first.Wait()

		r, err := kv.Open(t.Context(), connect(), kv.Options{Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		announce(t, r, instance("a", home))
		picked := func() bool {
			p, err := s.Pick(t.Context(), "user")
			p.Done(nil)
			return err == nil && p.ID == "a"
		}
		testkit.Eventually(t, "the newcomer is picked", picked)

		w.to.Store(nil)
		natstest.Stop(ns)
		for range 60 {
			if !picked() {
				t.Fatal("no pick while the registry is away")
			}
			time.Sleep(time.Second)
		}
		w.to.Store(natstest.Start(t, store))
		testkit.Eventually(t, "the view is fresh again", func() bool {
			e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
			return err == nil && !e.Stale
		})
		for range 60 {
			if !picked() {
				t.Fatal("no pick after the registry has come back")
			}
			time.Sleep(time.Second)
		}
	})
}

// With a registry for each region, the instances of the other regions are listed too.
func TestTheRegistryOfARegionIsOpenedByOptions(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t, func(o *server.Options) { o.JetStreamDomain = "us" })
		nc := natstest.Connect(t, ns)
		if _, err := selector.New(t.Context(), nc, selector.Options{Location: home, Registry: kv.Options{Regions: []string{"eu"}}, Logger: silent}); err == nil || !strings.Contains(err.Error(), "domain") {
			t.Errorf("without its domain: %v", err)
		}
		o := selector.Options{Location: home, Registry: kv.Options{Domain: "us", Regions: []string{"us", "eu"}}, Logger: silent}
		var d distances
		o.Latency.Dial = d.dial
		s, err := selector.New(t.Context(), nc, o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := kv.Open(t.Context(), nc, kv.Options{Domain: "us", NoCreate: true, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		announce(t, r, d.at("here", home, time.Millisecond))
		testkit.Eventually(t, "it is picked", func() bool {
			p, err := s.Pick(t.Context(), "user")
			p.Done(nil)
			return err == nil && p.ID == "here"
		})
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Stream(t.Context(), "KV_proxima_us"); err != nil {
			t.Errorf("the other regions are not read: %v", err)
		}
	})
}
