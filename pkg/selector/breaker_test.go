package selector_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestTheNextPickAvoidsAnInstanceThatRefused(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(3)...)
				p := w.pick()
				p.Done(errRefused)
				// At once, also before a table was built without it.
				for range 100 {
					q := w.pick()
					if q.ID == p.ID {
						t.Fatalf("picked %s, which has just refused", q.ID)
					}
					q.Done(nil)
				}
				synctest.Wait()
				if got := w.candidate(p.ID).Breaker; got != "open" {
					t.Errorf("breaker %s, want open", got)
				}
			})
		})
	}
}

func TestFailuresInARowOpenTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := selector.Options{}
		o.Breaker.Failures = 3
		w := start(t, o, several(2)...)
		for _, result := range []error{errCall, errCall, nil, errCall, errCall, selector.Permanent(errCall), errCall, errCall, context.Canceled} {
			w.call("i0", result)
		}
		if got := w.candidate("i0").Breaker; got != "closed" {
			t.Fatalf("breaker %s, though there were never three failures in a row", got)
		}
		w.call("i0", fmt.Errorf("third: %w", errCall))
		if got := w.candidate("i0").Breaker; got != "open" {
			t.Errorf("breaker %s after three failures in a row, want open", got)
		}
		if got := w.only(); !slices.Equal(got, []string{"i1"}) {
			t.Errorf("picked %v, want i1", got)
		}
	})
}

func TestAnOpenBreakerIsTriedAndCloses(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(3)...)
				pick := func(i int) selector.Pick {
					if strategy == selector.ConsistentHash {
						return w.pick(key(i))
					}
					return w.pick()
				}
				w.call("i0", errRefused)
				time.Sleep(4*time.Second - time.Millisecond)
				if n := w.picks(50, key(0))["i0"]; n > 0 {
					t.Fatalf("picked i0 %d times while it was open", n)
				}
				time.Sleep(2050 * time.Millisecond)
				synctest.Wait()
				if got := w.candidate("i0").Breaker; got != "half-open" {
					t.Fatalf("breaker %s after 6s, want half-open", got)
				}
				// One trial at a time: while it runs, no other call
				// goes there.
				var trial selector.Pick
				for i := range 200 {
					p := pick(i)
					if p.ID == "i0" {
						trial = p
						break
					}
					p.Done(nil)
				}
				if trial.Instance == nil {
					t.Fatal("200 picks and none of them tried the half-open one")
				}
				for i := range 100 {
					p := pick(i)
					if p.ID == "i0" {
						t.Fatal("picked i0 while a trial was on its way")
					}
					p.Done(nil)
				}
				trial.Done(nil)
				time.Sleep(50 * time.Millisecond)
				if got := w.candidate("i0").Breaker; got != "closed" {
					t.Errorf("breaker %s after a trial that succeeded, want closed", got)
				}
			})
		})
	}
}

func TestAFailedTrialOpensTheBreakerAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		w.call("i0", errRefused)
		time.Sleep(6100 * time.Millisecond)
		w.call("i0", errCall)
		if got := w.candidate("i0").Breaker; got != "open" {
			t.Errorf("breaker %s after a failed trial, want open", got)
		}
	})
}

func TestATrialThatIsNeverReportedDoesNotBlockForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		w.call("i0", errRefused)
		time.Sleep(6100 * time.Millisecond)
		w.aim("i0") // and never ended
		time.Sleep(10100 * time.Millisecond)
		w.call("i0", nil)
		if got := w.candidate("i0").Breaker; got != "closed" {
			t.Errorf("breaker %s, want closed after the second trial", got)
		}
	})
}

// Picks leave a nearer circle in which all breakers are open, and come back to it.
func TestOpenBreakersAreDeprioritised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("here", home), instance("door", nextDoor), instance("late", farAway, suspect), instance("end", home, status(events.Draining)))
		for _, step := range []struct{ fails, next string }{
			{"", "here"},
			{"here", "door"},
			{"door", "late"},
			{"late", "end"}, // draining, but its calls do not fail
			{"end", "here"}, // all breakers are open: the nearest
		} {
			if step.fails != "" {
				w.call(step.fails, errRefused)
				time.Sleep(50 * time.Millisecond)
			}
			if got := w.only(); !slices.Equal(got, []string{step.next}) {
				t.Errorf("after %q failed: picked %v, want %s", step.fails, got, step.next)
			}
		}
	})
}

func TestAllOpenStillPicks(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(3)...)
				for i := range 3 {
					w.call(fmt.Sprint("i", i), errRefused)
				}
				for range 2 {
					for i := range 50 {
						p := w.pick(key(i))
						p.Done(errCall)
					}
					time.Sleep(100 * time.Millisecond)
				}
				for _, c := range w.explain().Instances {
					if c.Breaker != "open" || c.InFlight != 0 {
						t.Errorf("%s: breaker %s, %d in flight", c.ID, c.Breaker, c.InFlight)
					}
				}
			})
		})
	}
}

// If the only instance is half-open, calls beyond the trial are not refused either.
func TestAHalfOpenInstanceAloneIsStillPicked(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, instance("a", home), instance("b", home, status(events.NotReady)))
				w.call("a", errRefused)
				time.Sleep(6100 * time.Millisecond)
				var held []selector.Pick
				for range 5 {
					held = append(held, w.pick())
				}
				if got := w.candidate("a").Breaker; got != "half-open" {
					t.Errorf("breaker %s, want half-open", got)
				}
				for i := range held {
					held[i].Done(nil)
				}
				if got := w.candidate("a"); got.Breaker != "closed" || got.InFlight != 0 {
					t.Errorf("breaker %s, %d in flight, want closed, 0", got.Breaker, got.InFlight)
				}
			})
		})
	}
}

func TestANewIncarnationHasAFreshBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		late := w.aim("i0")
		w.call("i0", errRefused)
		w.call("i1", nil)
		w.list(append(several(1, incarnation("2")), several(2)[1])...)
		c := w.candidate("i0")
		if c.Breaker != "closed" || c.Picks != 0 || c.InFlight != 0 || c.Incarnation != "2" {
			t.Errorf("the new incarnation: %+v", c)
		}
		if c := w.candidate("i1"); c.Picks == 0 {
			t.Error("the other lost what was learned of it")
		}
		// A call to the old incarnation that fails now does not count for the new one.
		late.Done(errRefused)
		if c := w.candidate("i0"); c.Breaker != "closed" || c.InFlight != 0 {
			t.Errorf("after the end of an old call: %+v", c)
		}
	})
}

func TestTheUsersHookIsCalledForBreakersAndMayCallTheSelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard []string
		var w *world
		o := selector.Options{}
		o.Breaker.OnChange = func(k breaker.Key, from, to breaker.State) {
			heard = append(heard, fmt.Sprintf("%s %s %s: %s to %s", k.Service, k.Instance, k.Incarnation, from, to))
			p := w.pick()
			p.Done(nil)
			w.explain()
		}
		w = start(t, o, several(2)...)
		w.call("i0", errRefused)
		time.Sleep(6100 * time.Millisecond)
		synctest.Wait()
		want := []string{"user i0 1: closed to open", "user i0 1: open to half-open"}
		if len(heard) < 2 || !slices.Equal(heard[:2], want) {
			t.Errorf("heard %q, want %q", heard, want)
		}
	})
}
