package selector_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
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

// Instances that are missing are no reason to leave: the others may have room.
func TestPicksStayWhileTheirCircleHasAnInstance(t *testing.T) {
	gone := status(events.NotReady)
	region, elsewhere := some("r", nextDoor, 10, 0), some("e", farAway, 10, 0)
	for _, tt := range []struct {
		name    string
		entries []events.Entry
		want    shares
	}{
		{"nothing is missing", join(some("z", home, 10, 0), region), shares{"zone": 1}},
		{"half", join(some("z", home, 10, 5, gone), region, elsewhere), shares{"zone": 1}},
		{"nine of ten", join(some("z", home, 10, 9, gone), region, elsewhere), shares{"zone": 1}},
		{"suspects are missing too", join(some("z", home, 10, 5, suspect), region), shares{"zone": 1}},
		{"all", join(some("z", home, 10, 10, gone), region, elsewhere), shares{"region": 1}},
		{"all of both", join(some("z", home, 10, 10, gone), some("r", nextDoor, 10, 10, gone), elsewhere), shares{"elsewhere": 1}},
		{"half of all there is", some("z", home, 10, 5, gone), shares{"zone": 1}},
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

func TestPicksLeaveWhenTheLastBreakerOpens(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := selector.Options{Strategy: strategy}
				o.Breaker.OpenFor, o.Breaker.MaxOpenFor = time.Hour, time.Hour
				w := start(t, o, join(some("z", home, 4, 0), some("r", nextDoor, 4, 0))...)
				for i := range 3 {
					w.call(fmt.Sprint("z", i), errRefused)
				}
				time.Sleep(time.Second)
				w.wantCircles(shares{"zone": 1})
				if got := w.state("zone").Note; !strings.Contains(got, "25 % of its weight can be picked") {
					t.Errorf("note %q", got)
				}
				w.call("z3", errRefused)
				time.Sleep(time.Second)
				w.wantCircles(shares{"region": 1})
				w.wantCircles(shares{"zone": 1}, selector.Request{From: &nextDoor})
			})
		})
	}
}

func TestCallsStayWithinALevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Spill: selector.Spill{Within: topology.Region}},
			join(some("z", home, 1, 1, status(events.NotReady)), some("r", nextDoor, 2, 0), some("e", farAway, 2, 0))...)
		w.wantCircles(shares{"region": 1})
		if got := w.candidate("e0").Reason; got != "never picked: calls must stay within the region" {
			t.Errorf("e0: %s", got)
		}
		w.call("r0", errRefused)
		w.call("r1", errRefused)
		time.Sleep(time.Second)
		w.wantCircles(shares{"region": 1}) // rather than none
		w.list(some("e", farAway, 2, 0)...)
		_, err := w.try()
		if e, ok := errors.AsType[*selector.NoInstanceError](err); !ok || !strings.Contains(err.Error(), "elsewhere has 2, 2 where calls must not go") || len(e.Circles) != 1 {
			t.Errorf("error %v", err)
		}
		if _, err = w.try(selector.Request{From: &farAway}); err != nil { // there they are the nearest
			t.Error(err)
		}
	})
}

func TestRegionsAreTriedInTheirOrder(t *testing.T) {
	in := func(region string) topology.Location { return topology.Location{Region: region, Zone: region + "-a"} }
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Spill: selector.Spill{Regions: []string{"sa", "eu"}}})
		all := []events.Entry{
			w.at("us", home, time.Millisecond), w.at("eu", in("eu"), 20*time.Millisecond),
			w.at("sa", in("sa"), 150*time.Millisecond), w.at("ap", in("ap"), 10*time.Millisecond),
		}
		for i, want := range []shares{{"zone": 1}, {"sa": 1}, {"eu": 1}, {"elsewhere": 1}} {
			w.list(all...)
			time.Sleep(time.Minute)
			w.wantCircles(want)
			if i < 3 {
				gone := *all[[]int{0, 2, 1}[i]].Instance
				gone.Status = events.NotReady
				all[[]int{0, 2, 1}[i]].Instance = &gone
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
