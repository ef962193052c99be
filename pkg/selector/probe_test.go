package selector_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Of many instances a caller measures some: all of the nearest, and of the
// others not the same as every other caller.
func TestMeasuresTheNearestFirstAndNotAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := make(map[string]int)
		for range 100 {
			o := selector.Options{}
			o.Latency.MaxPaths = 4
			w := newWorld(t, o)
			entries := []events.Entry{w.at("y", home, time.Millisecond), w.at("z", home, time.Millisecond)}
			for i := range 8 {
				entries = append(entries, w.at(fmt.Sprint("i", i), nextDoor, time.Millisecond), w.at(fmt.Sprint("f", i), farAway, time.Millisecond))
			}
			w.list(append(entries, w.at("x", home, time.Millisecond, status(events.Draining)))...)
			n := 0
			for _, c := range w.explain().Instances {
				if c.DistanceSource == "measured" {
					count[c.ID]++
					n++
				}
			}
			if n != 4 {
				t.Fatalf("%d instances were measured, want 4", n)
			}
			_ = w.Close()
		}
		if count["y"] != 100 || count["z"] != 100 || count["x"] != 0 {
			t.Errorf("in the zone: %v, want y and z measured by all, and not x, which is draining", count)
		}
		for i := range 8 {
			if n := count[fmt.Sprint("i", i)]; n < 5 || n > 50 {
				t.Errorf("i%d was measured by %d of 100 callers, want about 25", i, n)
			}
			if count[fmt.Sprint("f", i)] > 0 {
				t.Errorf("f%d was measured, though not all of the region were", i)
			}
		}
	})
}

// An address is dialled whatever the protocol, but a subject is none.
func TestMeasuresEveryKindOfAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var dialled []string
		o := selector.Options{}
		o.Latency.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dialled = append(dialled, address)
			return nil, errCall
		}
		start(t, o,
			instance("a", home, endpoint(events.TCP, "tcp:1")), instance("b", home, endpoint(events.HTTP, "http:1")),
			instance("c", home, endpoint(events.HTTPS, "https:1")), instance("d", home, endpoint(events.GRPC, "grpc:1")),
			instance("e", home, endpoint(events.NATS, "subject")),
		)
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(dialled)
		if got, want := slices.Compact(dialled), []string{"grpc:1", "http:1", "https:1", "tcp:1"}; !slices.Equal(got, want) {
			t.Errorf("dialled %v, want %v", got, want)
		}
	})
}

func TestTheUsersHookHearsOfDistances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		heard := make(map[string]int)
		o := selector.Options{}
		o.Latency.OnChange = func(service string) {
			mu.Lock()
			defer mu.Unlock()
			heard[service]++
		}
		w := newWorld(t, o)
		w.list(w.at("a", home, time.Millisecond))
		mu.Lock()
		defer mu.Unlock()
		if len(heard) != 1 || heard["user"] == 0 {
			t.Errorf("heard of %v, want user", heard)
		}
	})
}

func TestNothingIsMeasuredAnyMoreAfterTheLastHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		dialled := 0
		o := selector.Options{}
		o.Latency.Dial = func(context.Context, string, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			dialled++
			return nil, errCall
		}
		w := start(t, o, instance("a", home, endpoint(events.TCP, "tcp:1")))
		w.list()
		mu.Lock()
		before := dialled
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if before == 0 || dialled != before {
			t.Errorf("dialled %d times before it left and %d in all", before, dialled)
		}
	})
}

// Measuring others whenever the list changes would mean to know nobody.
func TestWhoIsMeasuredHardlyChangesWithTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := selector.Options{}
		o.Latency.MaxPaths = 20
		w := newWorld(t, o)
		var entries []events.Entry
		for i := range 100 {
			entries = append(entries, w.at(fmt.Sprintf("i%03d", i), home, time.Millisecond))
		}
		w.list(entries...)
		measured := func() map[string]bool {
			ids := make(map[string]bool)
			for _, c := range w.explain().Instances {
				if c.DistanceSource == "measured" {
					ids[c.ID] = true
				}
			}
			return ids
		}
		before := measured()
		for i := range 10 {
			entries = append(entries, w.at(fmt.Sprintf("i%03da", 10*i), home, time.Millisecond))
			w.list(entries...)
		}
		now := measured()
		kept := 0
		for id := range before {
			if now[id] {
				kept++
			}
		}
		if kept != 20 || len(now) > 45 {
			t.Errorf("%d of 20 are still known after ten have come, %d in all", kept, len(now))
		}
	})
}

// Not to have been measured does not make an instance the nearest, nor does it
// make it a stranger.
func TestTheUnmeasuredAreNeitherTheNearestNorLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		const ms = time.Millisecond
		// Inside a zone half a millisecond is assumed.
		w.list(w.at("a", home, 20*ms), w.at("b", home, 24*ms), w.at("c", home, 40*ms), instance("new", home), instance("far", farAway))
		if got, want := w.only(), []string{"a", "b", "new"}; !slices.Equal(got, want) {
			t.Errorf("picked %v, want %v", got, want)
		}
		if c := w.candidate("new"); c.DistanceMS != 20 || c.DistanceSource != "assumed" || !c.Near {
			t.Errorf("new: %v ms %s, near %v, want that of the nearest known", c.DistanceMS, c.DistanceSource, c.Near)
		}
		if got := w.explain().Instances[0].ID; got != "a" {
			t.Errorf("Explain begins with %s, want a", got)
		}
		if c := w.candidate("far"); c.DistanceMS != 150 {
			t.Errorf("far: %v ms, want 150", c.DistanceMS)
		}
		// When nothing is known of the near set, what is assumed orders it.
		w.list(w.at("a", home, 20*ms, status(events.Draining)), instance("new", home))
		if got := w.only(); !slices.Equal(got, []string{"new"}) {
			t.Errorf("picked %v, want new", got)
		}
	})
}
