package selector_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// A zone loses the registry, so its leases end together. Its live instances are kept and
// used last; the dead are found by two probes, and no longer used.
func TestProbesFindTheDeadAmongSuspects(t *testing.T) {
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

		// It answers again, and is still suspect.
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

// The lease of the only instance ends because its announcer lost the registry: it answers,
// so it is called. When it is killed, no call is made to it seconds later.
func TestProbesDecideAboutTheLastInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		entry := w.at("a", home, time.Millisecond)
		w.list(entry)
		doubted := entry
		suspect(&doubted)
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{doubted}})
		for range 30 {
			time.Sleep(time.Minute)
			w.picks(10)
		}

		w.silence("a.example:80")
		w.until("it is not picked", 20*time.Second, func() bool {
			_, err := w.try()
			if err != nil && !errors.Is(err, selector.ErrNoInstance) {
				t.Fatal(err)
			}
			return err != nil
		})
		if c := w.candidate("a"); !c.Dead || !c.Suspect || c.Near || c.Reason != "never picked: its lease ended, and it does not answer probes" {
			t.Errorf("%+v", c.Standing)
		}
		if c := w.circles()[0]; c.Dead != 1 || c.Instances != 1 {
			t.Errorf("counted as %+v", c)
		}

		// It is a last resort while the registry is out of reach: no lease proves anything.
		w.send(events.Snapshot{Service: "user", Stale: true, Entries: []events.Entry{doubted}})
		w.picks(1)
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{doubted}})
		w.until("it is not picked again", time.Minute, func() bool { _, err := w.try(); return err != nil })

		// It answers again, or another one comes.
		w.set("a.example:80", time.Millisecond)
		w.until("it is back", 35*time.Second, func() bool { _, err := w.try(); return err == nil })
		w.silence("a.example:80")
		w.until("it is gone once more", 35*time.Second, func() bool { _, err := w.try(); return err != nil })
		w.list(doubted, w.at("b", home, time.Millisecond))
		if got := w.picks(10)["b"]; got != 10 {
			t.Errorf("%d of 10 picks go to the new one", got)
		}
	})
}

// If it is refused, probes know within two seconds.
func TestALastInstanceThatIsKilledIsGoneInTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o selector.Options
		var killed atomic.Bool
		o.Latency.Dial = func(context.Context, string, string) (net.Conn, error) {
			if killed.Load() {
				return nil, errRefused
			}
			return connection{}, nil
		}
		w := newWorld(t, o)
		entry := w.at("a", home, time.Millisecond)
		w.list(entry)
		w.picks(10)
		killed.Store(true)
		w.call("a", errRefused)
		suspect(&entry)
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{entry}})
		took := w.until("it is not picked", 2*time.Second, func() bool { _, err := w.try(); return err != nil })
		t.Logf("after %v", took)
	})
}

// If the network of the caller fails, all probes fail. That proves nothing about
// instances that become suspect once it is back, even if a probe was under way.
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

// While the registry is out of reach it reports no death.
func TestProbesFindTheDeadWhileTheRegistryIsOutOfReach(t *testing.T) {
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
		w.silence("r.example:80") // or the network of the caller
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
		_, err := w.try()
		if e, ok := errors.AsType[*selector.NoInstanceError](err); !ok || e.Circles[0].Dead != 1 {
			t.Errorf("got %v", err)
		}
		if got, want := fmt.Sprint(err), "selector: no usable instance of user: zone has 1, 1 dead"; got != want {
			t.Errorf("got %q", got)
		}
	})
}

func TestAStaleViewShowsWhenTheRegistryWasLastHeard(t *testing.T) {
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
