package selector_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Keys of instances that leave, drain or are broken go to others, and come back. Other keys
// stay where they are.
func TestKeysMoveOnlyWithTheirInstance(t *testing.T) {
	const n, keys = 20, 4000
	for _, tt := range []struct {
		name       string
		gone, back func(w *world, all []events.Entry)
	}{
		{"it leaves", func(w *world, all []events.Entry) {
			w.list(append(slices.Clone(all[:7]), all[8:]...)...)
		}, func(w *world, all []events.Entry) { w.list(all...) }},
		{"it drains", func(w *world, all []events.Entry) {
			other := slices.Clone(all)
			other[7] = instance("i7", home, status(events.Draining))
			w.list(other...)
		}, func(w *world, all []events.Entry) { w.list(all...) }},
		{"it is a suspect", func(w *world, all []events.Entry) {
			other := slices.Clone(all)
			other[7] = instance("i7", home, suspect)
			w.list(other...)
		}, func(w *world, all []events.Entry) { w.list(all...) }},
		{"its breaker opens", func(w *world, all []events.Entry) {
			w.call("i7", errRefused)
			synctest.Wait()
		}, func(w *world, all []events.Entry) {
			time.Sleep(10 * time.Second)
			for i := range keys { // one of them is the trial
				p := w.pick(key(i))
				p.Done(nil)
			}
			synctest.Wait()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := several(n)
				w := start(t, hashing(), all...)
				before := w.owners(keys)
				tt.gone(w, all)
				after := w.owners(keys)
				owned := 0
				for i := range keys {
					switch {
					case before[i] == "i7":
						owned++
						if after[i] == "i7" {
							t.Fatalf("key %d stays with i7", i)
						}
					case before[i] != after[i]:
						t.Fatalf("key %d moved from %s to %s, only those of i7 should", i, before[i], after[i])
					}
				}
				if owned < keys/n/2 || owned > keys/n*3/2 {
					t.Errorf("%d of %d keys moved, want about %d", owned, keys, keys/n)
				}
				tt.back(w, all)
				if got := moved(before, w.owners(keys)); got > 0 {
					t.Errorf("%d keys did not come back", got)
				}
			})
		})
	}
}

// An instance that comes takes its share of the keys, and no others move.
func TestAnInstanceThatComesTakesItsShareOfTheKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, keys = 20, 4000
		all := several(n)
		w := start(t, hashing(), all...)
		before := w.owners(keys)
		w.list(append(all, instance("new", home))...)
		after := w.owners(keys)
		for i := range keys {
			if before[i] != after[i] && after[i] != "new" {
				t.Fatalf("key %d moved from %s to %s", i, before[i], after[i])
			}
		}
		if got := moved(before, after); got < keys/(n+1)/2 || got > keys/(n+1)*3/2 {
			t.Errorf("%d of %d keys moved, want about %d", got, keys, keys/(n+1))
		}
	})
}

// A caller that measures its own zone to be far away has the same keys as the others there.
func TestKeysStayInACircleThatIsMeasuredFarAway(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		var all [][]string
		for _, here := range []time.Duration{ms, 40 * ms} {
			w := newWorld(t, hashing())
			var entries []events.Entry
			for i := range 4 {
				entries = append(entries, w.at(fmt.Sprint("here", i), home, here), w.at(fmt.Sprint("next", i), nextDoor, 2*ms))
			}
			w.list(entries...)
			for range 6 {
				w.owners(10) // it is called, so it is measured
				time.Sleep(10 * time.Second)
				synctest.Wait()
			}
			all = append(all, w.owners(300))
		}
		if n := moved(all[0], all[1]); n > 0 {
			t.Errorf("two callers of a zone disagree about %d of 300 keys", n)
		}
	})
}

// Calls by another strategy make an instance busy, as calls with keys do; where they are
// spread evenly they move no key.
func TestCallsByAnotherStrategyMoveNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.RoundRobin}, several(10)...)
		owners := func() (ids []string) {
			for i := range 300 {
				r := key(i)
				r.Strategy = selector.ConsistentHash
				p := w.pick(r)
				p.Done(nil)
				ids = append(ids, p.ID)
			}
			return ids
		}
		before := owners()
		for range 15 { // one or two for each
			w.pick()
		}
		if n := moved(before, owners()); n > 0 {
			t.Errorf("%d of 300 keys moved as other calls were in flight", n)
		}
	})
}

// What a router gives a caller as a key does not count where the policy finds one.
func TestTheKeyOfThePolicyGoesBeforeTheDefaultKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"strategy":"consistent_hash","hash_key":{"header":"x-user"}}`)
		w.list(several(20)...)
		for i := range 50 {
			name := key(i).Key
			header := func(string) string { return name }
			want := w.pick(selector.Request{Key: name})
			for _, r := range []selector.Request{
				{Header: header, DefaultKey: fmt.Sprint("given-", i)},
				{Header: func(string) string { return "" }, DefaultKey: name},
				{Header: header, Key: name, DefaultKey: "given"},
			} {
				p := w.pick(r)
				if p.ID != want.ID {
					t.Errorf("%+v: %s, want %s", r, p.ID, want.ID)
				}
				p.Done(nil)
			}
			want.Done(nil)
		}
	})
}
