package selector_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Evacuated instances are used after all others that work, and before those that fail.
func TestEvacuatedInstancesAreUsedWhenNoOtherIsLeft(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := instance("here", home), instance("there", farAway)
				w := start(t, patient(selector.Options{Strategy: strategy}))
				for _, step := range []struct {
					what string
					list []events.Entry
					want string
				}{
					{"nothing is evacuated", []events.Entry{here, there}, "here"},
					{"the nearest is", []events.Entry{instance("here", home, evacuated), there}, "there"},
					{"and what is left is suspect", []events.Entry{instance("here", home, evacuated), instance("there", farAway, suspect)}, "there"},
					{"or drains", []events.Entry{instance("here", home, evacuated), instance("there", farAway, status(events.Draining))}, "there"},
					{"or is not ready", []events.Entry{instance("here", home, evacuated), instance("there", farAway, status(events.NotReady))}, "here"},
					{"everything is", []events.Entry{instance("here", home, evacuated), instance("there", farAway, evacuated)}, "here"},
					{"nothing is any more", []events.Entry{here, there}, "here"},
				} {
					w.list(step.list...)
					if got := w.only(selector.Request{Service: "user", Key: "k"}); !slices.Equal(got, []string{step.want}) {
						t.Errorf("%s: %v is picked, want %s", step.what, got, step.want)
					}
				}
				// If all others fail, evacuated instances get the calls.
				w.list(instance("here", home, evacuated), there)
				w.fail("there")
				if got := w.only(selector.Request{Service: "user", Key: "k"}); !slices.Equal(got, []string{"here"}) {
					t.Errorf("%v is picked, want the one that works", got)
				}
				w.fail("here")
				if got := w.only(selector.Request{Service: "user", Key: "k"}); !slices.Equal(got, []string{"there"}) {
					t.Errorf("%v is picked, want the one that fails and is to be used", got)
				}
			})
		})
	}
}

// Evacuated instances are no missing capacity: the others of their circle take all
// calls, and evacuated instances do not fill in.
func TestAnEvacuationMakesNoCircleSpillAndNoInstanceFillIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := append(some("left", home, 5, 5, evacuated), some("stays", home, 2, 0)...)
		w := start(t, selector.Options{}, append(list, some("far", nextDoor, 3, 0)...)...)
		w.wantCircles(map[string]float64{"zone": 1})
		e := w.explain()
		if e.Panic {
			t.Error("panic")
		}
		if got := w.only(); !slices.Equal(got, []string{"stays0", "stays1"}) {
			t.Errorf("%v are picked", got)
		}
	})
}

func TestWhatWasLearnedSurvivesAnEvacuation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		a, b := w.at("a", home, time.Millisecond), w.at("b", nextDoor, 2*time.Millisecond)
		w.list(a, b)
		w.call("a", nil)
		before := learned(w.candidate("a"))
		gone := a
		gone.Evacuated = true
		w.list(gone, b)
		if got := learned(w.candidate("a")); got != before {
			t.Errorf("%s, before %s", got, before)
		}
	})
}

func TestAnEvacuationIsExplainedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, patient(selector.Options{}), instance("a", home, evacuated), instance("b", home, evacuated), instance("c", nextDoor))
		w.fail("b")
		if c := w.candidate("a"); !c.Evacuated || c.Reason != "standby: used only when no better instance is available: its place is evacuated" {
			t.Errorf("%+v", c.Standing)
		}
		if c := w.candidate("b"); !c.Evacuated || c.Reason != "standby: used only when no better instance is available: its place is evacuated and its breaker is open, calls failed" {
			t.Errorf("%+v", c.Standing)
		}
		if c := w.candidate("c"); c.Evacuated || !strings.HasPrefix(c.Reason, "picked by p2c") {
			t.Errorf("%+v", c.Standing)
		}
		for _, s := range w.circles() {
			if want := map[string]int{"zone": 2}[s.Name]; s.Evacuated != want || s.Usable+s.Evacuated != s.Instances {
				t.Errorf("%+v", s)
			}
		}
		w.list(instance("a", home, evacuated), instance("b", home, evacuated))
		if c := w.candidate("a"); c.Reason != "picked by p2c: in the near set of zone, because no better instance is available: its place is evacuated" {
			t.Error(c.Reason)
		}
		_, err := w.try(selector.Request{Service: "user", Avoid: []string{"a", "b"}})
		if err == nil || !strings.Contains(err.Error(), "zone has 2, 2 evacuated; 2 excluded") {
			t.Error(err)
		}
	})
}
