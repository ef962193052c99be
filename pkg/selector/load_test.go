package selector_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// hold makes the calls in flight to an instance n.
func (w *world) hold(held map[string][]selector.Pick, id string, n int) {
	w.t.Helper()
	for len(held[id]) < n {
		held[id] = append(held[id], w.aim(id))
	}
	for len(held[id]) > n {
		last := len(held[id]) - 1
		held[id][last].Done(nil)
		held[id] = held[id][:last]
	}
}

func TestLoadAddsTheNextCircleAndLeavesItAgain(t *testing.T) {
	type step struct {
		calls int     // in flight to each of the zone
		want  float64 // share of the region
	}
	for _, tt := range []struct {
		name string
		opts selector.Options
		step []step
	}{
		{"only above the high mark", selector.Options{Strategy: selector.RoundRobin}, []step{{2, 0}, {4, 0.5}, {8, 0.75}, {3, 1.0 / 3}, {1, 0}, {0, 0}}},
		{"random too", selector.Options{Strategy: selector.Random}, []step{{4, 0.5}}},
		{"weighted too", selector.Options{Strategy: selector.WeightedRoundRobin}, []step{{4, 0.5}}},
		{"nearest too", selector.Options{Strategy: selector.Nearest}, []step{{4, 0.5}}},
		{"an instance of more weight is called until the low mark", selector.Options{Strategy: selector.P2C}, []step{{2, 0}, {4, 0.8}, {1, 0.2}, {0, 0}, {1, 0}, {2, 0}, {3, 1 - 0.8/3}}},
		{"least_request too", selector.Options{Strategy: selector.LeastRequest}, []step{{1, 0}, {4, 0.8}, {1, 0.2}, {0, 0}, {1, 0}}},
		{"load_aware too", selector.Options{Strategy: selector.LoadAware}, []step{{1, 0}, {4, 0.8}, {1, 0.2}, {0, 0}, {1, 0}}},
		{"the marks can be set", selector.Options{Strategy: selector.P2C, Spill: selector.Spill{High: 10, Low: 5}}, []step{{9, 0}, {20, 0.75}, {6, 1.0 / 6}, {4, 0}, {6, 0}}},
		{"the low mark goes with the high one", selector.Options{Strategy: selector.P2C, Spill: selector.Spill{High: 10}}, []step{{20, 0.8}, {5, 0.2}, {3, 0}, {5, 0}}},
		{"or there are none", selector.Options{Spill: selector.Spill{High: -1}}, []step{{50, 0}}},
		{"a key stays where it is", selector.Options{Strategy: selector.ConsistentHash}, []step{{50, 0}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, tt.opts, join(some("z", home, 3, 0), some("r", nextDoor, 2, 0))...)
				held := make(map[string][]selector.Pick)
				for i, s := range tt.step {
					for k := range 3 {
						w.hold(held, fmt.Sprint("z", k), s.calls)
					}
					time.Sleep(8 * time.Second)
					got := w.state("region")
					if math.Abs(got.Share-s.want) > 0.015 {
						t.Errorf("step %d: with %d calls to each the region takes %v, want %v", i, s.calls, got.Share, s.want)
					}
					if load := w.state("zone").Load; tt.opts.Spill.High >= 0 && math.Abs(load-float64(s.calls)) > 0.05 {
						t.Errorf("step %d: load %v, want %d", i, load, s.calls)
					}
					if added := strings.Contains(got.Note, "takes picks because zone is overloaded"); added != (s.want > 0) {
						t.Errorf("step %d: note %q", i, got.Note)
					}
					if why := w.candidate("r0").Reason; strings.Contains(why, "of picks because zone is overloaded") != (s.want > 0) {
						t.Errorf("step %d: r0: %s", i, why)
					}
				}
			})
		})
	}
}

func TestALoadIsSmoothedAndByWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.Random}, instance("z", home, weight(400)), instance("r", nextDoor))
		held := make(map[string][]selector.Pick)
		w.hold(held, "z", 40)
		time.Sleep(100 * time.Millisecond)
		w.hold(held, "z", 0) // a burst
		time.Sleep(3 * time.Second)
		if got := w.shares()["region"]; got > 0 {
			t.Errorf("a burst of a tenth of a second sent %v to the region", got)
		}
		w.hold(held, "z", 8)
		time.Sleep(10 * time.Second)
		if c := w.state("zone"); math.Abs(c.Load-2) > 0.01 || c.Share != 1 {
			t.Errorf("%+v, want a load of 2: it counts for four", c)
		}
	})
}

// Strategies that compare load take the farther instance only if that is better.
func TestLoadLeavesACircleOnlyForABetterInstance(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name      string
		strategy  selector.Strategy
		near, far time.Duration // of calls
		busy      int           // calls in flight to the far one
		want      bool          // some go far
	}{
		{"p2c: no, the way is long", selector.P2C, ms, 40 * ms, 0, false},
		{"p2c: yes, it is short", selector.P2C, 10 * ms, 12 * ms, 0, true},
		{"p2c: no, it is as busy", selector.P2C, 10 * ms, 12 * ms, 4, false},
		{"least_request: yes, it has fewer calls", selector.LeastRequest, ms, 40 * ms, 3, true},
		{"least_request: no, it has as many", selector.LeastRequest, ms, ms, 4, false},
		{"load_aware: as p2c without beats", selector.LoadAware, ms, 40 * ms, 0, false},
		{"load_aware: yes, it is short", selector.LoadAware, 10 * ms, 12 * ms, 0, true},
		{"load_aware: no, it is as busy", selector.LoadAware, 10 * ms, ms, 4, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: tt.strategy}, instance("z0", home), instance("z1", home), instance("r", nextDoor))
				held := make(map[string][]selector.Pick)
				for id, n := range map[string]int{"z0": 4, "z1": 4, "r": tt.busy} {
					w.hold(held, id, n)
				}
				for range 8 * 5 { // keeps what was learned fresh
					for id, took := range map[string]time.Duration{"z0": tt.near, "z1": tt.near, "r": tt.far} {
						p := w.aim(id)
						p.DoneAfter(nil, took)
					}
					time.Sleep(200 * ms)
				}
				if got := w.state("region").Share; got < 0.7 {
					t.Fatalf("the region may take %v", got)
				}
				for _, r := range [][]selector.Request{nil, {{Protocol: events.NATS}}} {
					far := 0
					for range 1000 {
						p := w.pick(r...)
						if (p.ID == "r") != (p.Circle() == "region") {
							t.Fatalf("%s is of circle %s", p.ID, p.Circle())
						}
						if p.ID == "r" {
							far++
						}
						p.DoneAfter(nil, map[bool]time.Duration{true: tt.far, false: tt.near}[p.ID == "r"])
					}
					// The loads of a protocol are known from its first pick on.
					if r == nil && tt.want != (far > 500) || !tt.want && far > 0 {
						t.Errorf("%d of 1000 went far, want some: %v", far, tt.want)
					}
				}
			})
		})
	}
}

func TestLoadGoesOnToFurtherCircles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.Random}, instance("z", home), instance("r", nextDoor), instance("e", farAway))
		held := make(map[string][]selector.Pick)
		w.hold(held, "z", 4)
		w.hold(held, "r", 8)
		time.Sleep(10 * time.Second)
		w.wantCircles(shares{"zone": 0.5, "region": 0.125, "elsewhere": 0.375})
		w.hold(held, "r", 0)
		time.Sleep(10 * time.Second)
		w.wantCircles(shares{"zone": 0.5, "region": 0.5})
		w.hold(held, "z", 0)
		time.Sleep(10 * time.Second)
		w.wantCircles(shares{"zone": 1})
	})
}

func TestHealthAndLoadSpillTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.Random}, join(some("z", home, 2, 1, suspect), some("r", nextDoor, 2, 0))...)
		held := make(map[string][]selector.Pick)
		w.hold(held, "z1", 4)
		time.Sleep(10 * time.Second)
		w.wantCircles(shares{"zone": 0.35, "region": 0.65})
	})
}

// Calls come at a rate and take their time. The next circle is added once, and left once
// after the rate has fallen.
func TestLoadDoesNotFlap(t *testing.T) {
	const ms = time.Millisecond
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LeastRequest, selector.LoadAware, selector.RoundRobin, selector.Random} {
		for _, way := range []time.Duration{ms, 60 * ms} {
			t.Run(fmt.Sprint(strategy, " ", way), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, selector.Options{Strategy: strategy}, join(some("z", home, 3, 0), some("r", nextDoor, 9, 0))...)
					var calls sync.WaitGroup
					far, total := 0, 0
					call := func() {
						p := w.pick()
						took := 20 * ms
						total++
						if p.Circle() == "region" {
							far++
							took += way
						}
						calls.Go(func() {
							time.Sleep(took)
							p.Done(nil)
						})
					}
					changes, added := 0, false
					run := func(every time.Duration, looks int) {
						far, total = 0, 0
						for range looks {
							for end := time.Now().Add(100 * ms); time.Now().Before(end); time.Sleep(every) {
								call()
							}
							if now := strings.Contains(w.state("region").Note, "is overloaded"); now != added {
								added = now
								changes++
							}
						}
					}
					run(1667*time.Microsecond, 600) // 600 a second for 20 ms: 4 for each of 3
					if !added || changes != 1 {
						t.Errorf("added: %v, after %d changes", added, changes)
					}
					if share := float64(far) / float64(total); share > 0.7 {
						t.Errorf("%.2f of the calls went far", share)
					}
					changes = 0
					run(15*ms, 300) // 0.44 for each
					calls.Wait()
					if added || changes != 1 {
						t.Errorf("after the load: added: %v, after %d changes", added, changes)
					}
					if got := w.shares()["region"]; got > 0 {
						t.Errorf("%v go far without any load", got)
					}
				})
			})
		}
	}
}

func TestALoadIsForgottenWhenThereAreNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.Random}, instance("z", home), instance("r", nextDoor))
		held := make(map[string][]selector.Pick)
		w.hold(held, "z", 4)
		time.Sleep(10 * time.Second)
		for i := range held["z"] {
			held["z"][i].Done(nil)
		}
		time.Sleep(20 * time.Second)
		if c := w.state("zone"); c.Load != 0 || c.Share != 1 {
			t.Errorf("%+v", c)
		}
	})
}
