package selector_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Ten minutes of calls without a registry.
func TestALongOutageOfTheRegistryCostsNeitherCallsNorMemory(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		store := func(o *server.Options) { o.StoreDir = dir }
		var w wire
		ns := natstest.Start(t, store)
		w.to.Store(ns)
		connect := func() *nats.Conn {
			nc, err := nats.Connect("", nats.InProcessServer(&w), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			return nc
		}
		r, err := kv.Open(t.Context(), connect(), kv.Options{Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		announce(t, r, instance("a", home))
		announce(t, r, instance("b", home))
		s, err := selector.New(t.Context(), connect(), selector.Options{Location: home, Logger: silent})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		calls := func(d time.Duration) (made, failed int) {
			for end := time.Now().Add(d); time.Now().Before(end); made++ {
				time.Sleep(10 * time.Millisecond)
				if err := s.Do(t.Context(), "user", func(context.Context, *events.Instance) error { return nil }); err != nil {
					failed++
				}
			}
			return made, failed
		}
		fresh := func() bool {
			e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
			return err == nil && !e.Stale && len(e.Instances) == 2
		}
		testkit.Eventually(t, "both are listed", fresh)
		calls(10 * time.Second)
		w.to.Store(nil)
		natstest.Stop(ns)

		calls(time.Minute)
		before := held()
		made, failed := calls(10 * time.Minute)
		if failed > 0 {
			t.Errorf("%d of %d calls failed without a registry", failed, made)
		}
		if after := held(); after > before+5<<20 {
			t.Errorf("ten minutes without a registry cost %d KiB", (after-before)>>10)
		}
		w.to.Store(natstest.Start(t, store))
		began := time.Now()
		testkit.Eventually(t, "the view is fresh again", fresh)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("fresh again after %v", took)
		}
	})
}

// held is how many bytes are in use.
func held() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
