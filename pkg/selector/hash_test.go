package selector_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// owners returns the instance of each of n keys without load.
func (w *world) owners(n int) []string {
	w.t.Helper()
	owners := make([]string, n)
	for i := range owners {
		p := w.pick(key(i))
		owners[i] = p.ID
		p.Done(nil)
	}
	return owners
}

func key(i int) selector.Request { return selector.Request{Key: fmt.Sprint("user-", i)} }

func moved(before, after []string) int {
	n := 0
	for i := range before {
		if before[i] != after[i] {
			n++
		}
	}
	return n
}

func hashing() selector.Options { return selector.Options{Strategy: selector.ConsistentHash} }

func TestConsistentHashDividesKeysAboutEvenly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, keys = 20, 20000
		w := start(t, hashing(), several(n)...)
		counts := make(map[string]int)
		for _, id := range w.owners(keys) {
			counts[id]++
		}
		sum := 0.0
		for i := range n {
			d := float64(counts[fmt.Sprint("i", i)])/(keys/n) - 1
			sum += d * d
		}
		if deviation := math.Sqrt(sum / n); deviation > 0.15 {
			t.Errorf("shares deviate by %.0f %%, want some 8 %%: %v", 100*deviation, counts)
		}
	})
}

func TestConsistentHashMovesOnlyTheKeysOfInstancesThatLeft(t *testing.T) {
	for _, n := range []int{10, 100, 1000} {
		t.Run(fmt.Sprint(n, " instances"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const keys = 4000
				all := several(n)
				w := start(t, hashing(), all...)
				before := w.owners(keys)
				owned := 0
				for _, id := range before {
					if id == "i3" {
						owned++
					}
				}
				w.list(append(slices.Clone(all[:3]), all[4:]...)...)
				after := w.owners(keys)
				// In a large near set each node has fewer points, and their
				// number depends on the size of the set: a few more keys move.
				if got, most := moved(before, after), owned+keys/50; got < owned || got > most {
					t.Errorf("%d of %d keys moved when one of %d left that had %d, want at most %d", got, keys, n, owned, most)
				}
				w.list(all...)
				if got := moved(before, w.owners(keys)); got > 0 {
					t.Errorf("%d keys are elsewhere after it has come back", got)
				}
			})
		})
	}
}

func TestConsistentHashIsTheSameForEveryCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t, hashing()), newWorld(t, hashing())
		// They measure other distances, and get the instances in
		// another order.
		a.list(a.at("i0", home, 900_000), a.at("i1", home, 500_000), a.at("i2", home, 300_000))
		b.list(b.at("i2", home, 800_000))
		b.list(b.at("i0", home, 200_000), b.at("i1", home, 500_000), b.at("i2", home, 800_000))
		if n := moved(a.owners(500), b.owners(500)); n > 0 {
			t.Errorf("two callers disagree about %d of 500 keys", n)
		}
	})
}

// Callers of a zone measure other distances, and an instance at the edge of what is near
// is on either side of it. Their keys agree all the same.
func TestConsistentHashIsTheSameAtTheEdgeOfTheNearSet(t *testing.T) {
	const ms = time.Millisecond
	for _, place := range []topology.Location{home, nextDoor, farAway, nowhere} {
		t.Run(place.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all [][]string
				for caller := range 4 {
					w := newWorld(t, hashing())
					var entries []events.Entry
					for i, distance := range []time.Duration{1 * ms, 11 * ms / 10, 2 * ms, 2 * ms, 21 * ms / 10, 5 * ms} {
						jitter := time.Duration((2*caller+3*i)%7-3) * ms / 10 // ± 0.3 ms
						entries = append(entries, w.at(fmt.Sprint("i", i), place, distance+jitter))
					}
					w.list(entries...)
					all = append(all, w.owners(300))
					for step := range 3 { // and another time
						w.set("i2.example:80", 2*ms+time.Duration(step-1)*ms/3)
						time.Sleep(time.Minute)
						synctest.Wait()
						if n := moved(all[caller], w.owners(300)); n > 0 {
							t.Errorf("%d of 300 keys moved, as a distance changed a little", n)
						}
					}
				}
				for i, owners := range all[1:] {
					if n := moved(all[0], owners); n > 0 {
						t.Errorf("callers 0 and %d disagree about %d of 300 keys", i+1, n)
					}
				}
			})
		})
	}
}

func TestConsistentHashKeepsToTheSlackThatIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := hashing()
		o.Near.Slack = time.Millisecond
		w := newWorld(t, o)
		w.list(w.at("near", home, time.Millisecond), w.at("far", home, 5*time.Millisecond))
		for i, id := range w.owners(100) {
			if id != "near" {
				t.Fatalf("key %d belongs to %s, want near", i, id)
			}
		}
	})
}

// The hash of a key must never change: callers of different versions have to agree.
func TestConsistentHashIsTheSameInEveryRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, hashing(), several(5)...)
		want := []string{"i2", "i4", "i1", "i4", "i0", "i4", "i3", "i2", "i3", "i2"}
		if got := w.owners(10); !slices.Equal(got, want) {
			t.Errorf("the first keys belong to %q, want %q", got, want)
		}
	})
}

func TestConsistentHashIsBoundedByLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, calls = 8, 400
		w := start(t, hashing(), several(n)...)
		w.owners(5000) // calls that have ended do not count
		owner := w.owners(1)[0]
		count := make(map[string]int)
		var held []selector.Pick
		for range calls {
			p := w.pick(key(0))
			count[p.ID]++
			held = append(held, p)
		}
		for id, got := range count {
			if most := 1.25*calls/n + 2; float64(got) > most {
				t.Errorf("%s has %d of %d calls with one key, want at most %.0f", id, got, calls, most)
			}
		}
		if len(count) < n*4/5 {
			t.Errorf("calls went to %d of %d instances: %v", len(count), n, count)
		}
		for i := range held {
			held[i].Done(nil)
		}
		if got := w.owners(1)[0]; got != owner {
			t.Errorf("without load the key belongs to %s, before it was %s", got, owner)
		}
	})
}

// A busy instance is no reason to leave the circle.
func TestConsistentHashTakesABusyOneRatherThanAFarOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, hashing(), append(several(2), instance("far", farAway))...)
		r := key(1)
		r.Avoid = []string{"i0"}
		for range 50 {
			if p := w.pick(r); p.ID != "i1" {
				t.Fatalf("picked %s, want i1", p.ID)
			}
		}
	})
}

func TestConsistentHashDividesByWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, hashing(), instance("light", home, weight(50)), instance("heavy", home, weight(150)))
		heavy := 0
		for _, id := range w.owners(8000) {
			if id == "heavy" {
				heavy++
			}
		}
		if heavy < 5400 || heavy > 6600 {
			t.Errorf("the one of three times the weight has %d of 8000 keys, want about 6000", heavy)
		}
		// Many picks that ended do not make it full sooner.
		for i := range 400 {
			w.pick(key(i))
		}
		if got := w.candidate("heavy").InFlight; got < 280 || got > 350 {
			t.Errorf("it has %d of 400 calls in flight, want about 300", got)
		}
	})
}

func TestConsistentHashPassesTheKeysOfAnOpenBreakerOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const keys = 500
		w := start(t, hashing(), several(4)...)
		before := w.owners(keys)
		w.call("i2", errRefused)
		after := w.owners(keys)
		for i := range keys {
			if after[i] == "i2" || before[i] != "i2" && after[i] != before[i] {
				t.Fatalf("key %d moved from %s to %s, only those of i2 should", i, before[i], after[i])
			}
		}
		// A retry goes where the key would go if its owner were gone.
		for i := range keys {
			r := key(i)
			r.Avoid = []string{"i2"}
			p := w.pick(r)
			if p.ID != after[i] {
				t.Fatalf("key %d, avoiding i2: %s, want %s", i, p.ID, after[i])
			}
			p.Done(nil)
		}
	})
}

func TestConsistentHashKeepsItsRingThroughOtherChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := several(5)
		w := start(t, hashing(), all...)
		before := w.owners(300)
		w.list(append(all, instance("far", farAway))...)
		if n := moved(before, w.owners(300)); n > 0 {
			t.Errorf("%d keys moved because of an instance far away", n)
		}
		all[4] = instance("i9", home)
		w.list(all...)
		for i, id := range w.owners(300) {
			if id == "i4" || before[i] != "i4" && id != before[i] && id != "i9" {
				t.Fatalf("key %d moved from %s to %s, though i9 took the place of i4", i, before[i], id)
			}
		}
		all[4] = instance("i4", home)
		all[1] = instance("i1", home, weight(200))
		w.list(all...)
		after := w.owners(300)
		if n := moved(before, after); n == 0 {
			t.Error("no key moved though a weight has doubled")
		}
		for i := range after {
			if after[i] != before[i] && after[i] != "i1" {
				t.Fatalf("key %d moved from %s to %s, though only i1 has more weight", i, before[i], after[i])
			}
		}
	})
}
