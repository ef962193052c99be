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

// The probes of a caller go to instances that may be picked first: all of its own circle
// that want calls come before those of another.
func TestMeasuresTheNearestCircleFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			w := newWorld(t, selector.Options{})
			entries := []events.Entry{w.at("x", home, time.Millisecond, status(events.Draining))}
			for i := range 20 {
				entries = append(entries, w.at(fmt.Sprint("z", i), home, time.Millisecond))
			}
			for i := range 200 {
				entries = append(entries, w.at(fmt.Sprint("f", i), farAway, time.Millisecond))
			}
			w.list(entries...)
			count := make(map[string]int)
			for _, c := range w.explain().Instances {
				if c.DistanceSource == "measured" {
					count[c.Circle]++
				}
			}
			if count["zone"] < 7 || len(count) > 1 {
				t.Errorf("measured %v, want only some of the zone, of 20 that want calls", count)
			}
			_ = w.Close()
		}
	})
}

// A database counts connections that say nothing. It may be all that an instance with a tcp
// endpoint alone is; one that asks for connections, or has another endpoint, is none.
func TestAnInstanceThatMayBeADatabaseIsMeasuredAnEighthAsOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		dialled := make(map[string]int)
		o := selector.Options{}
		o.Latency.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
			mu.Lock()
			dialled[address]++
			mu.Unlock()
			time.Sleep(time.Millisecond)
			a, b := net.Pipe()
			_ = b.Close()
			return a, nil
		}
		start(t, o,
			instance("a", home, endpoint(events.TCP, "database:1")),
			instance("b", home, endpoint(events.TCP, "asks:1"), label(selector.ProbeKey, "connect")),
			instance("c", home, endpoint(events.HTTP, "http:1")),
			instance("d", home, func(e *events.Entry) { e.Endpoints = map[string]string{events.TCP: "both:1", events.NATS: "both"} }),
		)
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for _, often := range []string{"asks:1", "http:1", "both:1"} {
			if dialled[often] < 6*dialled["database:1"] || dialled["database:1"] == 0 {
				t.Errorf("connections in ten minutes: %v, want about eight times as many to %s as to the database", dialled, often)
			}
		}
	})
}

// An address is dialled whatever the protocol, the one without a name first; a subject, a
// socket and an address of UDP are none.
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
			instance("e", home, endpoint(events.NATS, "subject")), instance("f", home, endpoint(events.GRPCS, "grpcs:1")),
			instance("g", home, endpoint("tcp.a", "named:1"), also(events.GRPC, "unnamed:1")), instance("h", home, endpoint("http.b", "b:1"), also("http.a", "a:1")),
			instance("i", home, endpoint(events.UDP, "udp:1")), instance("j", home, endpoint(events.HTTP, "unix:/run/a")),
		)
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(dialled)
		if got, want := slices.Compact(dialled), []string{"a:1", "grpc:1", "grpcs:1", "http:1", "https:1", "tcp:1", "unnamed:1"}; !slices.Equal(got, want) {
			t.Errorf("dialled %v, want %v", got, want)
		}
	})
}

func TestNothingIsMeasuredAfterTheLastInstanceLeft(t *testing.T) {
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

// If every change of the list began new measurements, no distance would be known.
func TestADistanceStaysKnownWhenTheListChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
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
		if n := len(before); n < 7 || n > 15 {
			t.Errorf("%d are measured at once, want up to half of the budget of a minute", n)
		}
		for i := range 10 {
			entries = append(entries, w.at(fmt.Sprintf("i%03da", 10*i), home, time.Millisecond))
			w.list(entries...)
		}
		now := measured()
		for id := range before {
			if !now[id] {
				t.Errorf("%s is not known any more after ten have come", id)
			}
		}
		if n := len(now) - len(before); n < 1 || n > 5 {
			t.Errorf("%d more are measured after ten seconds, want what the budget allows", n)
		}
	})
}

// An instance that was not measured is not the nearest for that, and not left out.
func TestUnmeasuredInstancesAreNeitherTheNearestNorLeftOut(t *testing.T) {
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
		// If no distance of the near set is known, the assumed ones order it.
		w.list(w.at("a", home, 20*ms, status(events.Draining)), instance("new", home))
		if got := w.only(); !slices.Equal(got, []string{"new"}) {
			t.Errorf("picked %v, want new", got)
		}
	})
}
