package selector_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// wantCircles fails unless Explain shows these shares, and picks of every kind are divided
// by them.
func (w *world) wantCircles(want map[string]float64, r ...selector.Request) {
	w.t.Helper()
	got := w.shares(r...)
	for circle, share := range want {
		if math.Abs(got[circle]-share) > 1e-3 {
			w.t.Errorf("%s takes %.4f of the picks, want %.4f: %v", circle, got[circle], share, got)
		}
	}
	if len(got) != len(want) {
		w.t.Errorf("shares %v, want %v", got, want)
	}
	counts := make(map[string]int)
	for i := range 4000 {
		ask := selector.Request{}
		if len(r) > 0 {
			ask = r[0]
		}
		ask.Key = fmt.Sprint(i)
		p := w.pick(ask)
		counts[p.Circle()]++
		p.Done(nil)
	}
	if len(want) > 1 {
		wantShares(w.t, counts, want)
	} else if len(counts) != 1 {
		w.t.Errorf("picks in %v, want %v", counts, want)
	}
}

type shares = map[string]float64

func TestPicksLeaveACircleForItsMissingCapacity(t *testing.T) {
	gone := status(events.NotReady)
	region, elsewhere := some("r", nextDoor, 10, 0), some("e", farAway, 10, 0)
	for _, tt := range []struct {
		name    string
		entries []events.Entry
		want    shares
	}{
		{"nothing is missing", join(some("z", home, 10, 0), region), shares{"zone": 1}},
		{"too little is missing", join(some("z", home, 100, 28, gone), region), shares{"zone": 1}},
		{"a little more", join(some("z", home, 100, 29, gone), region), shares{"zone": 0.994, "region": 0.006}},
		{"half", join(some("z", home, 10, 5, gone), region, elsewhere), shares{"zone": 0.7, "region": 0.3}},
		{"suspects are missing too", join(some("z", home, 10, 5, suspect), region), shares{"zone": 0.7, "region": 0.3}},
		{"all", join(some("z", home, 10, 10, gone), region, elsewhere), shares{"region": 1}},
		{"half, and of the next too", join(some("z", home, 10, 5, gone), some("r", nextDoor, 10, 5, gone), elsewhere), shares{"zone": 0.7, "region": 0.21, "elsewhere": 0.09}},
		{"too much of all", join(some("z", home, 10, 8, gone), some("r", nextDoor, 10, 9, gone)), shares{"zone": 0.28 / 0.3808, "region": 0.1008 / 0.3808}},
		{"half of all there is", some("z", home, 10, 5, gone), shares{"zone": 1}},
		{"by weight", join(some("z", home, 4, 1, weight(1000)), some("y", home, 2, 2, gone, weight(200)), region), shares{"zone": 1}},
		{"by weight, more", join(some("z", home, 4, 0), some("y", home, 2, 2, gone, weight(200)), region), shares{"zone": 0.7, "region": 0.3}},
		{"a draining instance is not missed", join(some("z", home, 10, 5, status(events.Draining)), region), shares{"zone": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: selector.Random}, tt.entries...)
				w.wantCircles(tt.want)
			})
		})
	}
}

func TestInstancesWithoutTheProtocolAreNoMissingCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, join(some("z", home, 10, 5, endpoint(events.HTTP, "")), some("r", nextDoor, 10, 0))...)
		w.wantCircles(shares{"zone": 1}, selector.Request{Protocol: events.NATS})
	})
}

func TestSpillFollowsBreakersBothWays(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := selector.Options{Strategy: strategy}
				o.Breaker.OpenFor = time.Hour
				w := start(t, o, join(some("z", home, 4, 0), some("r", nextDoor, 4, 0))...)
				w.wantCircles(shares{"zone": 1})
				w.call("z0", errRefused)
				w.call("z1", errRefused)
				time.Sleep(time.Second)
				w.wantCircles(shares{"zone": 0.7, "region": 0.3})
				w.wantCircles(shares{"zone": 1}, selector.Request{From: &nextDoor})
				if got := w.candidate("r0").Reason; !strings.Contains(got, "in the near set of region, which takes 30 % of picks") {
					t.Errorf("r0: %s", got)
				}
				if got := w.candidate("z3").Reason; !strings.Contains(got, "in the near set of zone, which takes 70 % of picks") {
					t.Errorf("z3: %s", got)
				}
				if got := w.state("zone").Note; got != "50 % of its weight can be picked" {
					t.Errorf("note %q", got)
				}
				time.Sleep(80 * time.Minute) // half-open is usable
				w.wantCircles(shares{"zone": 1})
				if got := w.state("zone").Note; got != "" {
					t.Errorf("note %q, want none", got)
				}
			})
		})
	}
}

func TestAKeySpillsAlwaysTheSameWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.ConsistentHash}, join(some("z", home, 4, 2, suspect), some("r", nextDoor, 4, 0))...)
		for i := range 100 {
			first := w.pick(key(i))
			first.Done(nil)
			for range 10 {
				p := w.pick(key(i))
				p.Done(nil)
				if p.ID != first.ID {
					t.Fatalf("key %d goes to %s and to %s", i, first.ID, p.ID)
				}
			}
		}
	})
}

// If the circle that the spill draws has no available instance, another circle is used.
func TestASpillIsLeftWhenItsCircleHasNoInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, join(some("z", home, 4, 2, status(events.NotReady)), some("r", nextDoor, 1, 0))...)
		for range 200 {
			p := w.pick(selector.Request{Avoid: []string{"r0"}})
			if p.Circle() != "zone" {
				t.Fatalf("picked %s of %s", p.ID, p.Circle())
			}
			p.Done(nil)
			if p = w.pick(selector.Request{Avoid: []string{"z2", "z3"}}); p.ID != "r0" {
				t.Fatalf("picked %s", p.ID)
			}
			p.Done(nil)
		}
	})
}

func TestStatsShowHowPicksAreDivided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, join(some("z", home, 10, 5, status(events.NotReady)), some("r", nextDoor, 1, 0))...)
		for _, c := range w.circles() {
			if want := (shares{"zone": 0.7, "region": 0.3})[c.Name]; math.Abs(c.Share-want) > 1e-3 {
				t.Errorf("%s: share %v, want %v", c.Name, c.Share, want)
			}
		}
	})
}

func TestASpillingPickAllocatesNothing(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		s := openReal(t, selector.Options{Strategy: strategy}, join(some("i", home, 4, 2, suspect), some("r", nextDoor, 8, 0))...)
		for i, r := range requests() {
			if got := testing.AllocsPerRun(1000, func() {
				p, _ := s.PickFor(t.Context(), r)
				p.Done(nil)
			}); got != 0 {
				t.Errorf("%s: request %d: %v allocations", strategy, i, got)
			}
		}
		if got := testing.AllocsPerRun(1000, func() {
			p, _ := s.Pick(t.Context(), "user")
			p.Done(nil)
		}); got != 0 {
			t.Errorf("%s: %v allocations", strategy, got)
		}
	}
}
