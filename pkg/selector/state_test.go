package selector_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// No change of the list, or of the record of an instance other than a new incarnation or
// address, makes this caller forget what it has learned.
func TestWhatWasLearnedSurvivesChangesOfTheList(t *testing.T) {
	type change = func(w *world, all []events.Entry) []events.Entry
	copyOf := func(e events.Entry, f func(*events.Entry)) events.Entry {
		in := *e.Instance
		e.Instance = &in
		f(&e)
		return e
	}
	each := func(f func(*events.Entry)) change {
		return func(_ *world, all []events.Entry) []events.Entry {
			for i := range all {
				all[i] = copyOf(all[i], f)
			}
			return all
		}
	}
	for _, tt := range []struct {
		name   string
		change change
	}{
		{"the same list", func(_ *world, all []events.Entry) []events.Entry { return all }},
		{"equal instances at other addresses in memory", each(func(*events.Entry) {})},
		{"another weight", each(weight(7))},
		{"other metadata", each(label("team", "b"))},
		{"another version", each(func(e *events.Entry) { e.Version = "2" })},
		{"another status", each(status(events.NotReady))},
		{"draining", each(status(events.Draining))},
		{"suspect", each(suspect)},
		{"a coordinate", each(placed(point(0, 40*time.Millisecond)))},
		{"a further endpoint", each(func(e *events.Entry) {
			e.Endpoints = map[string]string{events.TCP: e.Endpoints[events.TCP], events.NATS: "x"}
		})},
		{"another revision", func(_ *world, all []events.Entry) []events.Entry {
			all[0].Revision++
			return all
		}},
		{"others come before, between and after", func(w *world, all []events.Entry) []events.Entry {
			return append(all, w.at("a", home, time.Millisecond), w.at("bb", home, time.Millisecond), w.at("z", farAway, time.Millisecond), w.at("a", farAway, time.Millisecond))
		}},
		{"another order", func(w *world, all []events.Entry) []events.Entry {
			slices.Reverse(all)
			all = append(all, w.at("a", home, time.Millisecond), w.at("z", farAway, time.Millisecond), w.at("bb", home, time.Millisecond))
			w.send(events.Snapshot{Service: "user", Entries: slices.Clone(all)})
			slices.Reverse(all)
			w.send(events.Snapshot{Service: "user", Entries: slices.Clone(all)})
			return all
		}},
		{"others leave", func(w *world, all []events.Entry) []events.Entry {
			w.list(append(all, w.at("a", home, time.Millisecond), w.at("bb", home, time.Millisecond))...)
			return all
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, selector.Options{})
				all := []events.Entry{
					w.at("b", home, 300*time.Microsecond), w.at("c", home, 400*time.Microsecond), w.at("d", nextDoor, 2*time.Millisecond),
				}
				w.list(all...)
				for _, id := range []string{"b", "c", "d"} {
					p := w.aim(id)
					p.DoneAfter(nil, 7*time.Millisecond)
				}
				w.aim("b")
				w.call("c", errRefused)
				before := make(map[string]string)
				for _, id := range []string{"b", "c", "d"} {
					before[id] = learned(w.candidate(id))
				}
				w.list(tt.change(w, slices.Clone(all))...)
				for _, id := range []string{"b", "c", "d"} {
					if got := learned(w.candidate(id)); got != before[id] {
						t.Errorf("%s: %s, before %s", id, got, before[id])
					}
				}
			})
		})
	}
}

func TestWhatWasLearnedIsForgottenForAnotherIncarnationOrAddress(t *testing.T) {
	for _, tt := range []struct {
		name string
		now  func(w *world) events.Entry
	}{
		{"another incarnation", func(w *world) events.Entry { return w.at("b", home, time.Millisecond, incarnation("2")) }},
		{"another address", func(*world) events.Entry { return instance("b", home, endpoint(events.TCP, "10.9.9.9:9")) }},
		{"another place", func(w *world) events.Entry { return w.at("b", nextDoor, time.Millisecond) }},
		{"another host", func(w *world) events.Entry {
			return w.at("b", topology.Location{Region: "us", Zone: "us-a", Host: "h2"}, time.Millisecond)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, selector.Options{
					Location: topology.Location{Region: "us", Zone: "us-a", Host: "h2"},
					Levels:   topology.Levels{topology.Host, topology.Zone, topology.Region},
				})
				w.list(w.at("b", home, time.Millisecond))
				w.call("b", errRefused)
				w.list(tt.now(w))
				if c := w.candidate("b"); c.Picks != 0 || c.Breaker != "closed" {
					t.Errorf("%s, want nothing learned", learned(c))
				}
			})
		})
	}
}

// Instances come, leave, change and restart in any order: each keeps what was learned of
// it, and only that.
func TestEachInstanceKeepsWhatWasLearnedThroughAnySequenceOfLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		w := newWorld(t, selector.Options{Strategy: selector.RoundRobin})
		type life struct {
			incarnation string
			picks       uint64
		}
		lives := make(map[string]life) // of listed instances
		listed := make(map[string]events.Entry)
		total := uint64(0)
		for range 400 {
			for range r.IntN(6) {
				id := fmt.Sprintf("i%02d", r.IntN(20))
				e, ok := listed[id]
				switch {
				case !ok || r.IntN(4) == 0:
					listed[id] = instance(id, places[r.IntN(2)], incarnation(fmt.Sprint(r.IntN(3))))
				case r.IntN(3) == 0:
					delete(listed, id)
				default:
					listed[id] = instance(id, e.Location, incarnation(e.Incarnation), weight(1+r.IntN(9)))
				}
			}
			w.list(slices.Collect(maps.Values(listed))...)
			for id, l := range lives {
				if e, ok := listed[id]; !ok || e.Location.Zone+e.Incarnation != l.incarnation {
					delete(lives, id)
				}
			}
			for id, e := range listed {
				if _, ok := lives[id]; !ok {
					lives[id] = life{incarnation: e.Location.Zone + e.Incarnation}
				}
			}
			if len(listed) == 0 {
				continue
			}
			for id, n := range w.picks(5) {
				l := lives[id]
				l.picks += uint64(n)
				lives[id] = l
			}
			total += 5
			for _, c := range w.explain().Instances {
				if c.Picks != lives[c.ID].picks {
					t.Fatalf("%s was picked %d times, Explain says %d", c.ID, lives[c.ID].picks, c.Picks)
				}
			}
		}
		for _, c := range w.circles() {
			total -= c.Picks
		}
		if total != 0 {
			t.Errorf("Stats miss %d picks", int64(total))
		}
	})
}

func TestANewWeightAndANewSuspicionCountAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := several(2)
		w := start(t, selector.Options{Strategy: selector.LeastRequest}, all...)
		w.list(instance("i0", home, weight(300)), all[1])
		for range 400 {
			w.pick()
		}
		if got := w.candidate("i0").InFlight; got < 295 || got > 305 {
			t.Errorf("the one of weight 300 has %d of 400 calls, want about 300", got)
		}
		// The same instance, which is now suspect.
		for _, doubted := range []bool{true, false} {
			all[0].Suspect = doubted
			w.list(all...)
			if got := w.candidate("i0"); got.Suspect != doubted || got.Near == doubted {
				t.Errorf("doubted %v: %+v", doubted, got)
			}
		}
	})
}

func TestAnInstanceThatLeftIsNotKeptInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		var left []weak.Pointer[events.Instance]
		list := func(ids string) {
			var entries []events.Entry
			for _, id := range ids {
				e := w.at(string(id), home, time.Millisecond)
				left = append(left, weak.Make(e.Instance))
				entries = append(entries, e)
			}
			w.list(entries...)
			w.picks(20)
			w.call(string(ids[0]), errRefused)
		}
		list("abcdef")
		list("aceg")
		list("gh")
		left = left[:len(left)-2]
		for range 3 {
			runtime.GC()
		}
		kept := 0
		for _, p := range left {
			if p.Value() != nil {
				kept++
			}
		}
		if kept > 0 {
			t.Errorf("%d of %d instances that have left, or changed, are still in memory", kept, len(left))
		}
	})
}

func TestAPickKnowsWhetherItIsTheLastOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home))
		p := w.pick()
		if !p.Last() {
			t.Error("another one follows, though there is only one")
		}
		w.list(instance("a", home), instance("b", farAway, status(events.NotReady)))
		if p.Last() {
			t.Error("the last one, though another is listed")
		}
		var none selector.Pick
		if !none.Last() {
			t.Error("another one follows no pick")
		}
		w.list(several(3)...)
		var last []bool
		_ = w.DoFor(t.Context(), selector.Request{Service: "user"}, func(_ context.Context, p *selector.Pick) error {
			last = append(last, p.Last())
			return errCall
		})
		if !slices.Equal(last, []bool{false, false, true}) {
			t.Errorf("attempts of three that were the last: %v", last)
		}
	})
}

func TestManyFailuresAtOnceAreOneNewTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(100)...)
		before := w.Tables("user")
		for i := range 90 {
			w.call(fmt.Sprint("i", i), errRefused)
		}
		time.Sleep(time.Second)
		if got := w.Tables("user") - before; got != 2 {
			t.Errorf("%d tables were made, want one at once and one for the rest", got)
		}
		for id := range w.picks(300) {
			if c := w.candidate(id); c.Breaker != "closed" {
				t.Errorf("picked %s, whose breaker is %s", id, c.Breaker)
			}
		}
	})
}

func TestStatsCountPicksOfInstancesThatLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home), instance("b", nextDoor), instance("c", nextDoor, status(events.NotReady)), instance("d", farAway))
		w.picks(10)
		w.picks(5, selector.Request{Avoid: []string{"a"}})
		w.pick(selector.Request{Avoid: []string{"a", "b"}})
		want := []selector.Circle{
			{Name: "zone", Picks: 10, Instances: 1, Usable: 1, Share: 1},
			{Name: "region", Picks: 5, Instances: 2, Usable: 1, NotReady: 1},
			{Name: "elsewhere", Picks: 1, Instances: 1, Usable: 1, InFlight: 1},
		}
		picked := func() []selector.Circle {
			all := w.circles()
			for i := range all { // how calls end is another test's
				all[i].Outcomes, all[i].TimedCalls, all[i].TimedTotal = [6]uint64{}, 0, 0
				clear(all[i].Durations[:])
			}
			return all
		}
		if got := picked(); !slices.Equal(got, want) {
			t.Errorf("stats %+v, want %+v", got, want)
		}
		w.list(instance("d", farAway))
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{instance("d", farAway)}, Stale: true})
		want = []selector.Circle{
			{Name: "zone", Picks: 10},
			{Name: "region", Picks: 5},
			{Name: "elsewhere", Picks: 1, Instances: 1, Usable: 1, InFlight: 1, Share: 1},
		}
		if got := picked(); !slices.Equal(got, want) {
			t.Errorf("after two have left: stats %+v, want %+v", got, want)
		}
		if !w.Stats().Services[0].Stale {
			t.Error("the stats do not say that the list is stale")
		}
	})
}

func TestStatsKnowNothingBeforeTheFirstSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{FirstSnapshot: time.Millisecond})
		_, _ = w.try()
		if got := w.Stats(); got.Services != nil {
			t.Errorf("stats %+v, want none", got)
		}
	})
}

func TestAStaleListIsUsedAndMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := instance("a", home)
		w := start(t, selector.Options{}, a)
		if w.explain().Stale {
			t.Error("stale, want fresh")
		}
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{a}, Stale: true})
		if !w.explain().Stale {
			t.Error("fresh, want stale")
		}
		w.picks(3)
		// Breakers still take out instances that fail.
		w.list(a, instance("b", home))
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{a, instance("b", home)}, Stale: true})
		w.call("a", errRefused)
		if got := w.only(); !slices.Equal(got, []string{"b"}) {
			t.Errorf("picked %v from the stale list, want b", got)
		}
		w.send(events.Snapshot{Service: "user", Entries: []events.Entry{a}})
		if w.explain().Stale {
			t.Error("stale again, want fresh")
		}
	})
}
