package selector_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestBreakersAndSuspicionTakeOutHalfAtMost(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []events.Entry
		fail    []string // in that order
		refuse  []string
		want    []string // picked
		more    int      // of them are any of these
		among   []string
		panics  bool
	}{
		{
			"half can be missed", some("z", home, 4, 2, suspect), nil, nil,
			[]string{"z2", "z3"},
			0, nil, false,
		},
		{
			"not more", some("z", home, 5, 3, suspect), nil, nil,
			[]string{"z3", "z4"},
			1,
			[]string{"z0", "z1", "z2"},
			true,
		},
		{
			"rounded down", some("z", home, 3, 0),
			[]string{"z0", "z1"},
			nil,
			[]string{"z2", "z0"},
			0, nil, true,
		},
		{
			"one of two", some("z", home, 2, 0),
			[]string{"z0"},
			nil,
			[]string{"z1"},
			0, nil, false,
		},
		{
			"suspects before those that fail", some("z", home, 6, 1, suspect),
			[]string{"z1", "z2", "z3", "z4"},
			nil,
			[]string{"z0", "z5", "z1"},
			0, nil, true,
		},
		{
			"those that have failed for longest", some("z", home, 6, 0),
			[]string{"z4", "z1", "z3", "z2", "z0"},
			nil,
			[]string{"z5", "z4", "z1"},
			0, nil, true,
		},
		{
			"nearer ones first", join(some("z", home, 2, 1, suspect), some("r", nextDoor, 3, 3, suspect)), nil, nil,
			[]string{"z0", "z1"},
			0, nil, true, // also one of the region that is not needed
		},
		{
			"and of those that fail", join(some("r", nextDoor, 3, 0), some("z", home, 3, 0)),
			[]string{"r0", "r1", "r2", "z0", "z1"},
			nil,
			[]string{"z2", "z0", "z1"},
			0, nil, true,
		},
		{
			"never those that refused", some("z", home, 5, 0), nil,
			[]string{"z0", "z1", "z2", "z3"},
			[]string{"z4"},
			0, nil, true,
		},
		{
			"others in their place", some("z", home, 5, 0),
			[]string{"z2", "z3"},
			[]string{"z0", "z1"},
			[]string{"z2", "z3", "z4"},
			0, nil, true,
		},
		{
			"a draining instance is not counted", some("z", home, 6, 4, status(events.Draining)),
			[]string{"z4"},
			nil,
			[]string{"z5"},
			0, nil, false,
		},
		{
			"nor one that is not ready", some("z", home, 6, 4, status(events.NotReady)),
			[]string{"z4"},
			nil,
			[]string{"z5"},
			0, nil, false,
		},
		{
			"suspects alone are all used", some("z", home, 4, 4, suspect), nil, nil,
			[]string{"z0", "z1", "z2", "z3"},
			0, nil, false,
		},
		{
			"and filled up", some("z", home, 5, 1, suspect),
			[]string{"z3", "z1", "z2", "z4"},
			nil,
			[]string{"z0", "z3", "z1"},
			0, nil, true,
		},
		{
			"where all fail there is an order of its own", some("z", home, 3, 1, status(events.Draining)),
			[]string{"z1", "z2"},
			nil,
			[]string{"z0"},
			0, nil, false,
		},
	} {
		for _, strategy := range selector.Strategies() {
			if strategy == selector.Nearest {
				continue // picks one of them
			}
			t.Run(tt.name+" "+string(strategy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, patient(selector.Options{Strategy: strategy}), tt.entries...)
					w.fail(tt.fail...)
					for _, id := range tt.refuse {
						w.call(id, errRefused)
					}
					time.Sleep(time.Second)
					counts := make(map[string]int)
					for i := range 600 {
						p := w.pick(key(i))
						counts[p.ID]++
						p.Done(nil)
					}
					e := w.explain()
					if strategy == selector.P2C || strategy == selector.LoadAware {
						// P2C avoids an instance that took longer, and a failure counts
						// as a long time.
						clear(counts)
						for _, c := range e.Instances {
							if c.Near {
								counts[c.ID]++
							}
						}
					}
					got := slices.Sorted(maps.Keys(counts))
					for _, id := range tt.want {
						if counts[id] == 0 {
							t.Errorf("picked %v, want %v", got, tt.want)
						}
					}
					others := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return slices.Contains(tt.want, id) })
					if len(others) != tt.more || slices.ContainsFunc(others, func(id string) bool { return !slices.Contains(tt.among, id) }) {
						t.Errorf("picked %v, want %v and %d of %v", got, tt.want, tt.more, tt.among)
					}
					if e.Panic != tt.panics {
						t.Errorf("panic %v, want %v", e.Panic, tt.panics)
					}
					for _, c := range e.Instances {
						if c.Near != (counts[c.ID] > 0) {
							t.Errorf("%s was picked %d times, of which Explain says: %s", c.ID, counts[c.ID], c.Reason)
						}
						if fills := strings.Contains(c.Reason, "in panic"); fills && (!tt.panics || c.Breaker == "closed" && !c.Suspect) {
							t.Errorf("%s: %s", c.ID, c.Reason)
						}
					}
				})
			})
		}
	}
}

// An instance that fills in gets as many calls as the others.
func TestInstancesThatFillInArePickedLikeTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, patient(selector.Options{Strategy: selector.Random}), several(6)...)
		w.fail("i0", "i1", "i2", "i3", "i4")
		wantShares(t, w.picks(9000), map[string]float64{"i0": 1, "i1": 1, "i5": 1})
		if c := w.candidate("i0"); c.Breaker != "open" || c.InFlight != 0 {
			t.Errorf("after it filled in: breaker %s, %d in flight", c.Breaker, c.InFlight)
		}
	})
}

// Instances that fill in are in the circle that they are nearest in.
func TestPanicStaysInTheNearestCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 4 of 20 are usable, and 6 of the zone fill in.
		w := start(t, selector.Options{Strategy: selector.Random}, join(some("z", home, 10, 9, suspect), some("r", nextDoor, 10, 7, suspect))...)
		w.wantCircles(shares{"zone": 1})
	})
}

func TestPanicEndsWhenEnoughAreBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, some("z", home, 5, 3, suspect)...)
		if !w.explain().Panic || len(w.only()) != 3 {
			t.Fatalf("%+v", w.explain().Circles)
		}
		w.list(some("z", home, 5, 2, suspect)...)
		if e := w.explain(); e.Panic || !slices.Equal(w.only(), []string{"z2", "z3", "z4"}) {
			t.Errorf("picked %v, panic %v", w.only(), e.Panic)
		}
	})
}

func TestExplainShowsWhichInstancesFillIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, patient(selector.Options{}), append(several(5), instance("s", home, suspect))...)
		w.fail("i1", "i3")
		w.call("i0", errRefused)
		w.call("i2", errRefused)
		time.Sleep(time.Second)
		wantReasons(t, w.explain(), []string{
			"i1 zone true picked by p2c: in the near set of zone, fills in because fewer than half of the service are usable (panic): its breaker is open, calls failed",
			"i4 zone true picked by p2c: in the near set of zone",
			"s zone true picked by p2c: in the near set of zone, fills in because fewer than half of the service are usable (panic): its lease ended and nothing proves it dead",
			"i0 zone false standby: used only when no better instance is available: its breaker is open, it refused the connection; so it does not fill in",
			"i2 zone false standby: used only when no better instance is available: its breaker is open, it refused the connection; so it does not fill in",
			"i3 zone false standby: used only when no better instance is available: its breaker is open, calls failed; half of the service can be picked without it",
		})
		if c := w.state("zone"); c.Note != "panic: 2 that are not usable fill in; 50 % of its weight can be picked" || c.Usable != 1 || c.Instances != 6 {
			t.Errorf("%+v", c)
		}
		for _, c := range w.circles() {
			if c.Name == "zone" && c.Usable != 1 {
				t.Errorf("stats: %d usable, want 1", c.Usable)
			}
		}
	})
}

// Callers let different instances fill in.
func TestCallersLetDifferentInstancesFillIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(map[string]int)
		for range 60 {
			w := start(t, selector.Options{}, some("z", home, 5, 4, suspect)...)
			for _, id := range w.only() {
				seen[id]++
			}
			_ = w.Close()
		}
		for id, n := range seen {
			if id != "z4" && (n < 10 || n > 50) {
				t.Errorf("%s fills in for %d of 60 callers, want about 30", id, n)
			}
		}
	})
}

func TestAPickInPanicAllocatesNothing(t *testing.T) {
	s := openReal(t, patient(selector.Options{}), some("i", home, 10, 0)...)
	for i := range 7 {
		var avoid []string
		for k := range 10 {
			if k != i {
				avoid = append(avoid, "i"+string(rune('0'+k)))
			}
		}
		for range 5 {
			p, err := s.PickFor(t.Context(), selector.Request{Service: "user", Avoid: avoid})
			if err != nil {
				t.Fatal(err)
			}
			p.Done(errCall)
		}
	}
	testkit.Eventually(t, "two fill in", func() bool {
		e, err := s.Explain(t.Context(), selector.Request{Service: "user"})
		return err == nil && e.Panic && e.Circles[0].Usable == 3
	})
	if got := testing.AllocsPerRun(1000, func() {
		p, _ := s.Pick(t.Context(), "user")
		p.Done(nil)
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
