package selector_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestANewInstanceRampsUpByItsAge(t *testing.T) {
	for _, tt := range []struct {
		name   string
		rampUp time.Duration
		age    time.Duration // when it is first seen
		after  time.Duration // and how much later it is picked
		want   float64       // share of what one that is not new gets
	}{
		{"a tenth at first", 0, 0, time.Second, 0.13},
		{"half way", 0, 15 * time.Second, time.Second, 0.1 + 0.9*16/30},
		{"as time goes by", 0, 0, 20 * time.Second, 0.7},
		{"all after half a minute", 0, 0, 31 * time.Second, 1},
		{"nothing for one that this caller only sees late", 0, time.Hour, time.Second, 1},
		{"one from the future begins now", 0, -time.Hour, 10 * time.Second, 0.4},
		{"its length can be set", time.Minute, 0, 20 * time.Second, 0.4},
		{"or there is none", -1, 0, time.Second, 1},
	} {
		for _, strategy := range []selector.Strategy{
			selector.RoundRobin, selector.Random, selector.WeightedRoundRobin, selector.P2C, selector.LeastRequest, selector.LoadAware,
		} {
			t.Run(tt.name+" "+string(strategy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, selector.Options{Strategy: strategy, Ramp: selector.Ramp{Up: tt.rampUp}},
						instance("old", home), instance("older", home, aged(time.Hour)), instance("new", home, aged(tt.age)))
					time.Sleep(tt.after - time.Second)
					const n = 30000
					got := float64(w.picks(n)["new"]) / n
					if want := tt.want / (2 + tt.want); math.Abs(got-want) > 0.02+0.01*want {
						t.Errorf("the new one got %.3f of the picks, want %.3f", got, want)
					}
					why := w.candidate("new").Reason
					if ramps := strings.Contains(why, ", new: ramps up, weight "); ramps != (tt.want < 1) {
						t.Errorf("reason: %s", why)
					}
					if why := w.candidate("older").Reason; strings.Contains(why, "new") {
						t.Errorf("the old one: %s", why)
					}
				})
			})
		}
	}
}

func TestExplainShowsTheWeightOfANewInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("new", home, aged(14*time.Second), weight(300)), instance("old", home))
		wantReasons(t, w.explain(), []string{
			"new zone true picked by p2c: in the near set of zone, new: ramps up, weight 165 of 300 now",
			"old zone true picked by p2c: in the near set of zone",
		})
	})
}

func TestNoInstanceRampsUpWhereAllAreNew(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.RoundRobin, selector.Random, selector.WeightedRoundRobin, selector.P2C} {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: strategy}, append(several(3, aged(0)), instance("far", nextDoor))...)
			wantShares(t, w.picks(9000), equalShares(3))
		})
	}
}

// A new instance beside one that stopped answering: calls pile up on the silent one, and
// the new one takes over although it ramps up.
func TestAnInstanceThatRampsUpRelievesASilentNeighbour(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LeastRequest, selector.LoadAware} {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy, Spill: selector.Spill{Off: true}}, instance("silent", home), instance("new", home, aged(0)))
				const n = 400
				held := 0
				for range n {
					p := w.pick()
					if p.ID == "silent" {
						held++ // no answer
						continue
					}
					p.DoneAfter(nil, time.Millisecond)
				}
				// A tenth of the weight: about twenty calls in flight are as two of the new one.
				if held < 5 || held > 25 {
					t.Errorf("%d of %d calls went to the silent one, want about 20", held, n)
				}
			})
		})
	}
}

func TestNearestAndConsistentHashIgnoreTheAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Strategy: selector.Nearest})
		w.list(w.at("new", home, 300*time.Microsecond, aged(0)), w.at("old", home, 500*time.Microsecond))
		if got := w.picks(100)["new"]; got != 100 {
			t.Errorf("the nearest got %d of 100 picks", got)
		}
		if why := w.candidate("new").Reason; strings.Contains(why, "ramps up") {
			t.Errorf("reason: %s", why)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.ConsistentHash}, several(3)...)
		var before []string
		for i := range 100 {
			p := w.pick(key(i))
			before = append(before, p.ID)
			p.Done(nil)
		}
		w.list(append(several(2), instance("i2", home, aged(0)))...)
		for i := range 100 {
			p := w.pick(key(i))
			if p.ID != before[i] {
				t.Errorf("key %d went from %s to %s", i, before[i], p.ID)
			}
			p.Done(nil)
		}
	})
}

func TestANewIncarnationRampsUpAndAChangeDoesNotBeginAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ramps := func(w *world) bool { return strings.Contains(w.candidate("a").Reason, "ramps up") }
		future := time.Now().Add(time.Hour)
		begin := func(e *events.Entry) { e.Started = future }
		w := start(t, selector.Options{}, instance("a", home, begin), instance("b", home))
		if !ramps(w) {
			t.Fatal("it does not ramp up")
		}
		time.Sleep(20 * time.Second)
		w.list(instance("a", home, begin, label("team", "a")), instance("b", home))
		time.Sleep(12 * time.Second)
		if ramps(w) {
			t.Error("it began again with a change of its metadata")
		}
		w.list(instance("a", home, begin, incarnation("2")), instance("b", home))
		if !ramps(w) {
			t.Error("a new incarnation does not ramp up")
		}
	})
}

func TestTablesAreBuiltAnewOnlyWhileAnInstanceRampsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("new", home, aged(0)), instance("old", home))
		before := w.Tables("user")
		time.Sleep(20 * time.Second)
		if got := w.Tables("user") - before; got < 15 || got > 20 {
			t.Errorf("%d tables in 20 seconds, want about one a second", got)
		}
		time.Sleep(20 * time.Second)
		before = w.Tables("user")
		time.Sleep(time.Hour)
		if got := w.Tables("user") - before; got != 0 {
			t.Errorf("%d tables in an hour in which nothing happened", got)
		}
	})
}

func TestAPickAmongNewOnesAllocatesNothing(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		s := openReal(t, selector.Options{Strategy: strategy}, append(several(4, aged(0)), instance("old", home))...)
		if got := testing.AllocsPerRun(1000, func() {
			p, _ := s.Pick(t.Context(), "user")
			p.Done(nil)
		}); got != 0 {
			t.Errorf("%s: %v allocations", strategy, got)
		}
	}
}

// The clock of this process is an hour behind, or ahead: that of Ramp.Now counts.
func TestAgeIsByTheClockOfTheSource(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			list := always(instance("old", home, aged(time.Hour-ahead)), instance("new", home, aged(-ahead)))
			now := func() time.Time { return time.Now().Add(ahead) }
			w := newWorld(t, selector.Options{Source: list, Ramp: selector.Ramp{Now: now}})
			time.Sleep(time.Second)
			const n = 10000
			if got := float64(w.picks(n)["new"]) / n; got < 0.05 || got > 0.2 {
				t.Errorf("with a clock that is %v wrong the new one got %.3f of the picks", ahead, got)
			}
		})
	}
}

// What counts is when an instance became usable, not when its process started.
func TestAnInstanceRampsUpWhenItBecomesUsable(t *testing.T) {
	old := aged(time.Hour)
	for _, tt := range []struct {
		name string
		then func(w *world) // makes "x" usable
	}{
		{"it is listed", func(w *world) {
			w.list(instance("a", home, old))
			w.list(instance("a", home, old), instance("x", home, old))
		}},
		{"it is ready", func(w *world) {
			w.list(instance("a", home, old), instance("x", home, old, status(events.NotReady)))
			w.list(instance("a", home, old), instance("x", home, old))
		}},
		{"its place is no longer evacuated", func(w *world) {
			w.list(instance("a", home, old), instance("x", home, old, evacuated))
			w.list(instance("a", home, old), instance("x", home, old))
		}},
		{"its breaker closes", func(w *world) {
			w.call("x", errRefused)
			time.Sleep(7 * time.Second)
			w.call("x", nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: selector.Random}, instance("a", home, old), instance("x", home, old))
				if n := w.picks(1000)["x"]; n < 400 {
					t.Errorf("%d of 1000 before", n)
				}
				tt.then(w)
				time.Sleep(time.Second)
				if n := w.picks(1000)["x"]; n > 250 {
					t.Errorf("%d of 1000 two seconds after", n)
				}
				time.Sleep(31 * time.Second)
				if n := w.picks(1000)["x"]; n < 400 {
					t.Errorf("%d of 1000 half a minute after", n)
				}
			})
		})
	}
}

// Instances that do not answer probes are found out by probes, not by calls.
func TestAnUnreachableInstanceCostsNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list(w.at("a", home, time.Millisecond), instance("gone", home, endpoint(events.TCP, "gone.example:80")))
		time.Sleep(time.Minute)
		for range 3000 {
			p := w.pick()
			if p.ID == "gone" {
				t.Fatal("picked one that does not answer probes")
			}
			p.DoneAfter(nil, time.Millisecond)
			time.Sleep(100 * time.Millisecond)
		}
		if c := w.candidate("gone"); !strings.Contains(c.Reason, "it does not answer probes") || c.Breaker != "closed" {
			t.Errorf("%+v", c.Standing)
		}
		w.set("gone.example:80", time.Millisecond)
		time.Sleep(time.Minute)
		if n := w.picks(1000)["gone"]; n < 200 {
			t.Errorf("%d of 1000 when it answers again", n)
		}
		// If no instance answers probes they are called all the same.
		w.list(instance("gone", home, endpoint(events.TCP, "nowhere.example:80")))
		time.Sleep(time.Minute)
		p := w.pick()
		p.Done(nil)
	})
}

func TestAWeightOfZeroIsTheLastResort(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: strategy}, instance("spare", home, weight(events.LastResort)), instance("far", farAway), instance("door", nextDoor, weight(events.LastResort)))
			if got := w.only(selector.Request{Key: "k"}); !slices.Equal(got, []string{"far"}) {
				t.Errorf("%s: picked %v", strategy, got)
			}
			if c := w.candidate("spare"); c.Reason != "standby: used only when no better instance is available: it has the weight 0" {
				t.Errorf("%s", c.Reason)
			}
			w.call("far", errRefused)
			time.Sleep(time.Second)
			if got := w.only(selector.Request{Key: "k"}); !slices.Equal(got, []string{"spare"}) {
				t.Errorf("%s: picked %v when there is no other", strategy, got)
			}
		})
	}
}

// A half-open breaker lets a call through only when a probe says that an instance is there.
func TestAProbeGoesBeforeTheTrialOfABreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list(w.at("a", home, time.Millisecond), w.at("b", home, time.Millisecond))
		w.mu.Lock()
		delete(w.to, "b.example:80")
		w.mu.Unlock()
		w.call("b", errRefused)
		trials := 0
		calls := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				p := w.pick()
				if p.ID == "b" {
					trials++
					p.Done(errRefused)
					continue
				}
				p.DoneAfter(nil, time.Millisecond)
			}
		}
		calls(5 * time.Minute)
		if trials > 1 {
			t.Errorf("%d calls found out that b is not there", trials)
		}
		w.set("b.example:80", time.Millisecond)
		calls(3 * time.Minute)
		if trials == 0 {
			t.Error("b is not called when it answers probes")
		}
	})
}
