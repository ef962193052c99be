//go:build faults && unix

package faults_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// far is a place whose instances are as far away as its links say.
type far struct {
	name  string
	links []*natstest.Proxy
}

// delay is the round trip to the place, give or take a tenth.
func (f *far) delay(d time.Duration) {
	for _, p := range f.links {
		p.Delay(d / 2)
		p.Jitter(0.1)
	}
}

// Three places, 5, 50 and 200 ms away, and no instance states its location.
func TestDelaysDecideWhichInstancesAreNear(t *testing.T) {
	t.Parallel()
	const (
		each   = 3
		settle = 10 * time.Second
		calm   = 15 * time.Second
		pause  = 20 * time.Millisecond
	)
	nc := natstest.Connect(t, natstest.Start(t))
	r, err := kv.Open(t.Context(), nc, kv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var places [3]*far
	where := map[string]string{} // by the instance's id
	for i := range places {
		places[i] = &far{name: string(rune('a' + i))}
		for n := range each {
			s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			t.Cleanup(s.Close)
			link := natstest.NewProxy(t, s.Listener.Addr().String())
			places[i].links = append(places[i].links, link)
			in := events.Instance{
				Service: "user", ID: fmt.Sprintf("%s-%d", places[i].name, n), Incarnation: "1", TTL: time.Hour,
				Endpoints: map[string]string{events.HTTP: link.Addr()},
			}
			where[in.ID] = places[i].name
			if _, err := r.Register(t.Context(), in, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	near, middle, away := places[0], places[1], places[2]
	near.delay(5 * time.Millisecond)
	middle.delay(50 * time.Millisecond)
	away.delay(200 * time.Millisecond)

	sel, err := selector.New(t.Context(), nc, selector.Options{
		Source: r, Location: topology.Location{}, Probe: selector.Probe{Kind: selector.ProbeHTTP}, Ramp: selector.Ramp{Up: -1},
		Latency: latency.Options{Interval: settle / 3, Budget: 90}, // no other caller measures for it
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sel.Close()
	// picks makes picks for some time, and says how many were there, of how many,
	// and how often they went from one place to another.
	picks := func(there *far, long time.Duration) (hits, all, changes int) {
		last := ""
		for began := time.Now(); time.Since(began) < long; time.Sleep(pause) {
			p, err := sel.Pick(context.Background(), "user")
			if err != nil {
				t.Fatal(err)
			}
			p.Done(nil)
			at := where[p.ID]
			if all++; at == there.name {
				hits++
			}
			if last != "" && at != last {
				changes++
			}
			last = at
		}
		return hits, all, changes
	}
	check := func(there *far) {
		t.Helper()
		began := time.Now()
		for hits, all := 0, 1; hits < all; {
			if time.Since(began) > 3*settle {
				t.Fatalf("picks do not go to %s after %v", there.name, time.Since(began))
			}
			hits, all, _ = picks(there, time.Second)
		}
		took := time.Since(began)
		hits, all, changes := picks(there, calm)
		t.Logf("settled on %s after %v; then %d of %d picks, %d changes of place", there.name, took.Round(time.Second), hits, all, changes)
		if took > 2*settle {
			t.Errorf("settled after %v, want %v or not much more on a busy machine", took, settle)
		}
		if hits*100 < all*95 || changes > 2 {
			t.Errorf("%d of %d picks are near, %d changes of place", hits, all, changes)
		}
	}
	check(near)
	// What was near becomes far. The next is known, as one that may be needed.
	near.delay(200 * time.Millisecond)
	check(middle)
}
