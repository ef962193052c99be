package selector_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// A zone loses the registry. Those of it that live are kept and used last; the
// dead among them are known after two probes, and not used any more.
func TestProbesTellTheDeadAmongSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		list := func(change ...func(*events.Entry)) []events.Entry {
			return []events.Entry{
				w.at("a", home, time.Millisecond, change...), w.at("b", home, time.Millisecond, change...), w.at("r", nextDoor, 5*time.Millisecond),
			}
		}
		w.list(list()...)
		well, doubted := list(), list(suspect)
		w.silence("a.example:80")
		w.send(events.Snapshot{Service: "user", Entries: sortEntries(doubted)})
		if c := w.candidate("a"); c.Dead || !c.Suspect {
			t.Errorf("at first: %+v", c.Standing)
		}
		took := w.until("a is dead", 8*time.Second, func() bool { return w.candidate("a").Dead })
		t.Logf("known after %v", took)
		if b := w.candidate("b"); b.Dead || !b.Suspect {
			t.Errorf("b: %+v", b.Standing)
		}
		if got := w.only(); len(got) != 1 || got[0] != "r" {
			t.Errorf("picked %v", got)
		}
		if got := w.only(selector.Request{Avoid: []string{"r"}}); len(got) != 1 || got[0] != "b" {
			t.Errorf("without r picked %v", got)
		}
		if _, err := w.try(selector.Request{Avoid: []string{"r", "b"}}); err != nil {
			t.Errorf("the very last resort: %v", err)
		}

		// It comes to life again, still suspect.
		w.set("a.example:80", time.Millisecond)
		w.until("a is back", 35*time.Second, func() bool { return !w.candidate("a").Dead })

		// Or its lease is renewed.
		w.silence("b.example:80")
		w.until("b is dead", time.Minute, func() bool { return w.candidate("b").Dead })
		w.send(events.Snapshot{Service: "user", Entries: sortEntries(well)})
		if c := w.candidate("b"); c.Dead || c.Suspect {
			t.Errorf("renewed: %+v", c.Standing)
		}
	})
}

// When it is our own network that fails, all probes do. That says nothing of
// those who become suspect once it is back, not even if a probe was under way.
func TestFailuresBeforeTheSuspicionProveNothing(t *testing.T) {
	for after := 120 * time.Second; after < 150*time.Second; after += 700 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, selector.Options{})
			entry := w.at("a", home, time.Millisecond)
			w.list(entry)
			w.silence("a.example:80")
			time.Sleep(after)
			w.set("a.example:80", time.Millisecond)
			suspect(&entry)
			w.send(events.Snapshot{Service: "user", Entries: []events.Entry{entry}})
			for range 100 {
				if w.candidate("a").Dead {
					t.Fatalf("silent for %v: it is dead, though it answers", after)
				}
				time.Sleep(time.Second)
				synctest.Wait()
			}
		})
	}
}

// While the registry is away nobody tells who has died.
func TestProbesTellTheDeadWhileTheRegistryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		list := []events.Entry{w.at("a", home, time.Millisecond), w.at("b", home, time.Millisecond), w.at("r", nextDoor, 5*time.Millisecond)}
		w.list(list...)
		w.silence("a.example:80")
		time.Sleep(20 * time.Second)
		if w.candidate("a").Dead {
			t.Error("it is dead, though its lease is renewed")
		}
		w.send(events.Snapshot{Service: "user", Entries: sortEntries(list), Stale: true})
		if w.candidate("a").Dead {
			t.Error("it is dead at once")
		}
		w.silence("b.example:80")
		w.until("a and b are dead", 40*time.Second, func() bool { return w.candidate("a").Dead && w.candidate("b").Dead })
		if got := w.only(); len(got) != 1 || got[0] != "r" {
			t.Errorf("picked %v", got)
		}
		w.silence("r.example:80") // or our own network
		time.Sleep(3 * time.Minute)
		if got := w.only(); len(got) != 2 {
			t.Errorf("with all dead it picks %v", got)
		}
		w.send(events.Snapshot{Service: "user", Entries: sortEntries(list)})
		for _, c := range w.explain().Instances {
			if c.Dead {
				t.Errorf("%s is dead, though it is listed by a registry that is back", c.ID)
			}
		}
	})
}

func TestTheDeadAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		entry := w.at("a", home, time.Millisecond, suspect)
		w.silence("a.example:80")
		w.list(entry)
		w.until("it is dead", 10*time.Second, func() bool { return w.candidate("a").Dead })
		s := w.circles()[0]
		if s.Dead != 1 || s.Suspect != 0 || s.Usable != 0 || s.Instances != 1 {
			t.Errorf("%+v", s)
		}
		_, err := w.try(selector.Request{Avoid: []string{"a"}})
		if e, ok := errors.AsType[*selector.NoInstanceError](err); !ok || e.Circles[0].Dead != 1 {
			t.Errorf("got %v", err)
		}
		if got, want := fmt.Sprint(err), "selector: no usable instance of user: zone has 1, 1 dead; 1 excluded or tried before"; got != want {
			t.Errorf("got %q", got)
		}
	})
}

func TestStaleViewsSaySinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		since := time.Now()
		time.Sleep(3 * time.Second)
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{instance("a", home)}, Stale: true, StaleSince: since})
		if e := w.explain(); !e.Stale || e.StaleSeconds != 3 {
			t.Errorf("stale %t for %v s", e.Stale, e.StaleSeconds)
		}
		if s := w.Stats().Services[0]; !s.Stale || !s.StaleSince.Equal(since) {
			t.Errorf("%+v", s)
		}
	})
}
