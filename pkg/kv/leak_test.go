package kv_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// A process opens and closes any number of watches in its life, under one context and
// one connection.
func TestClosedWatchesLeaveNothingBehind(t *testing.T) {
	const watches = 2000
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		root, end := context.WithCancel(t.Context())
		defer end()
		watch := func(i int) {
			ctx, cancel := context.WithCancel(root)
			defer cancel()
			_ = f.r.Watch(ctx, fmt.Sprint("s", i%10), func(events.Snapshot) { cancel() })
		}
		measure := func() (heap int64, goroutines, subscriptions int) {
			synctest.Wait()
			runtime.GC()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc), runtime.NumGoroutine(), f.nc.NumSubscriptions()
		}
		for i := range 500 {
			watch(i)
		}
		heap, goroutines, subscriptions := measure()
		for i := range watches {
			watch(i)
		}
		h, g, s := measure()
		if perWatch := (h - heap) / watches; perWatch > 100 {
			t.Errorf("%d bytes a watch are kept", perWatch)
		}
		if g > goroutines+5 {
			t.Errorf("%d goroutines, %d before", g, goroutines)
		}
		if s != subscriptions {
			t.Errorf("%d subscriptions, %d before", s, subscriptions)
		}
	})
}

// What concerns all watches is subscribed to once: evacuations, and elections of the stream.
func TestWatchesShareSubscriptions(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		count := func() int {
			synctest.Wait()
			return f.nc.NumSubscriptions()
		}
		before := count()
		first := watch(t, f.r, "s0")
		one := count()
		for i := range 99 {
			watch(t, f.r, fmt.Sprint("s", i+1))
		}
		if got := count() - one; got != 99*2 {
			t.Errorf("99 more watches have %d more subscriptions, want 2 each", got)
		}
		if got := one - before; got != 4 {
			t.Errorf("the first watch has %d subscriptions, want 4", got)
		}
		first.close()
	})
}
