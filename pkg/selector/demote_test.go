package selector_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestACircleIsDemotedForItsDistanceAndComesBack(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		zone, region time.Duration // distances; 0: no answer
		after        time.Duration
		want         string
	}
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"not before ten seconds, and back not before ten more", []step{
			{10 * ms, ms, 8 * time.Second, "zone"},
			{10 * ms, ms, 4 * time.Second, "region"},
			{ms, ms, 8 * time.Second, "region"},
			{ms, ms, 4 * time.Second, "zone"},
		}},
		{"not up to twice as far and two milliseconds", []step{{21 * ms, 10 * ms, time.Minute, "zone"}, {30 * ms, 10 * ms, time.Minute, "region"}}},
		{"not for a little more than nothing", []step{{2 * ms, 100 * time.Microsecond, time.Minute, "zone"}}},
		{"back only from half as far again", []step{
			{40 * ms, 10 * ms, time.Minute, "region"},
			{19 * ms, 10 * ms, time.Minute, "region"},
			{16 * ms, 10 * ms, time.Minute, "zone"},
			{21 * ms, 10 * ms, time.Minute, "zone"},
		}},
		{"not for a while that ended", []step{
			{40 * ms, 10 * ms, 8 * time.Second, "zone"}, {15 * ms, 10 * ms, 5 * time.Second, "zone"}, {40 * ms, 10 * ms, 8 * time.Second, "zone"},
		}},
		{"nor back for one", []step{
			{40 * ms, 10 * ms, time.Minute, "region"},
			{10 * ms, 10 * ms, 8 * time.Second, "region"},
			{40 * ms, 10 * ms, 5 * time.Second, "region"},
			{10 * ms, 10 * ms, 8 * time.Second, "region"},
		}},
		{"an assumed distance demotes no circle", []step{{40 * ms, 0, time.Minute, "zone"}}},
		{"and is not demoted", []step{{0, ms, time.Minute, "zone"}}},
		{"an instance that is not measured any more comes back", []step{{40 * ms, ms, time.Minute, "region"}, {0, ms, time.Minute, "zone"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, quick(selector.Options{}))
				z, r := w.at("z", home, tt.steps[0].zone, label(selector.ProbeKey, "connect")), w.at("r", nextDoor, tt.steps[0].region, label(selector.ProbeKey, "connect"))
				for i, s := range tt.steps {
					w.set("z.example:80", s.zone)
					w.set("r.example:80", s.region)
					if i == 0 {
						w.list(z, r)
					}
					time.Sleep(s.after)
					if got := w.only(); !slices.Equal(got, []string{map[string]string{"zone": "z", "region": "r"}[s.want]}) {
						t.Errorf("step %d: picked %v, want %s", i, got, s.want)
					}
					if first := w.explain().Circles[0].Name; first != s.want {
						t.Errorf("step %d: Explain begins with %s, want %s", i, first, s.want)
					}
					if got, want := w.state("zone").Demoted, s.want == "region"; got != want {
						t.Errorf("step %d: demoted %v, want %v", i, got, want)
					}
					// Distances measured here do not count for another place.
					p := w.pick(selector.Request{From: &farAway})
					p.Done(nil)
					if got := w.only(selector.Request{From: &nextDoor}); !slices.Equal(got, []string{"r"}) {
						t.Errorf("step %d: picked %v from next door", i, got)
					}
				}
			})
		})
	}
}

// A prediction may be wrong, so it demotes no circle. What the zone has measured counts
// like what this caller has measured.
func TestOnlyMeasuredDistancesDemote(t *testing.T) {
	const ms = time.Millisecond
	type away struct{ shared, predicted time.Duration } // 0: not known so
	for _, tt := range []struct {
		name               string
		zone, also, region away
		want               string
		note               string
	}{
		{"both are shared", away{shared: 40 * ms}, away{}, away{shared: 2 * ms}, "region", "demoted: 40 ms away, while region is at 2 ms"},
		{"the zone's is predicted", away{predicted: 40 * ms}, away{}, away{shared: 2 * ms}, "zone", ""},
		{"the region's is predicted", away{shared: 40 * ms}, away{}, away{predicted: 2 * ms}, "zone", ""},
		{"both are predicted", away{predicted: 40 * ms}, away{}, away{predicted: 2 * ms}, "zone", ""},
		{"one is predicted to be nearer", away{shared: 40 * ms}, away{predicted: ms}, away{shared: 2 * ms}, "region", "demoted: 40 ms away, while region is at 2 ms"},
		{"one is predicted to be farther", away{shared: 2 * ms}, away{predicted: 40 * ms}, away{shared: 2 * ms}, "zone", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBus()
				rtts := make(map[string]time.Duration)
				var entries []events.Entry
				add := func(id string, at topology.Location, a away) {
					e := instance(id, at)
					if a.shared > 0 {
						rtts[id] = a.shared
					}
					if a.predicted > 0 {
						e.Coordinate = point(len(entries)+1, a.predicted)
					}
					entries = append(entries, e)
				}
				add("z", home, tt.zone)
				add("y", home, tt.also)
				add("r", nextDoor, tt.region)
				b.tell(t, point(0, 0), rtts)
				w := start(t, sharing(b, selector.Options{}), entries...)
				for range 3 {
					time.Sleep(10 * time.Second)
					b.tell(t, point(0, 0), rtts)
				}
				if first := w.explain().Circles[0].Name; first != tt.want {
					t.Errorf("Explain begins with %s, want %s", first, tt.want)
				}
				if got := w.state("zone"); got.Note != tt.note || got.Demoted != (tt.want == "region") {
					t.Errorf("the zone: %+v, want the note %q", got, tt.note)
				}
				if p := w.pick(); p.Circle() != tt.want {
					t.Errorf("picked in %s, want %s", p.Circle(), tt.want)
				}
				// When no distance is measured any more the labels decide again.
				time.Sleep(5 * time.Minute)
				if p := w.pick(); p.Circle() != "zone" {
					t.Errorf("picked in %s minutes after the last was measured", p.Circle())
				}
			})
		})
	}
}

func TestACircleIsDemotedAsFarAsItsDistanceGoes(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, quick(selector.Options{}))
		w.list(w.at("z", home, 400*ms, label(selector.ProbeKey, "connect")), w.at("r", nextDoor, 50*ms, label(selector.ProbeKey, "connect")), w.at("e", farAway, 20*ms, label(selector.ProbeKey, "connect")))
		order := func() (all []string) {
			for _, c := range w.explain().Circles {
				all = append(all, c.Name)
			}
			return all
		}
		time.Sleep(time.Minute)
		if got := order(); !slices.Equal(got, []string{"elsewhere", "region", "zone"}) {
			t.Errorf("order %v", got)
		}
		// It is also the order in which circles are tried.
		for _, step := range []struct{ avoid, want string }{{"", "e"}, {"e", "r"}} {
			if got := w.only(selector.Request{Avoid: []string{step.avoid}}); !slices.Equal(got, []string{step.want}) {
				t.Errorf("without %q: picked %v, want %s", step.avoid, got, step.want)
			}
		}
		w.set("z.example:80", 25*ms)
		time.Sleep(time.Minute)
		if got := order(); !slices.Equal(got, []string{"zone", "elsewhere", "region"}) {
			t.Errorf("order %v when the zone is near again", got)
		}
		w.set("r.example:80", 20*ms)
		time.Sleep(time.Minute)
		if got := order(); !slices.Equal(got, []string{"zone", "region", "elsewhere"}) {
			t.Errorf("order %v when all are", got)
		}
	})
}

func TestExplainShowsWhyACircleIsDemoted(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, quick(selector.Options{}))
		w.list(w.at("z", home, 40*ms, label(selector.ProbeKey, "connect")), w.at("r", nextDoor, 2*ms, label(selector.ProbeKey, "connect")), w.at("e", farAway, 80*ms, label(selector.ProbeKey, "connect")))
		time.Sleep(time.Minute)
		wantReasons(t, w.explain(), []string{
			"r region true picked by p2c: in the near set of region",
			"z zone false standby: used only when no instance in circle \"region\" is available (zone is demoted: its nearest is at 40 ms, that of region at 2 ms)",
			"e elsewhere false standby: used only when no instance in circle \"region\" is available (circle region is nearer)",
		})
		c := w.state("zone")
		if c.Note != "demoted: 40 ms away, while region is at 2 ms" || !c.Demoted || c.BestMS != 40 || c.DistanceSource != "measured" {
			t.Errorf("%+v", c)
		}
		for _, c := range w.circles() {
			if c.Demoted != (c.Name == "zone") {
				t.Errorf("stats: %s is demoted: %v", c.Name, c.Demoted)
			}
		}
		if got := w.state("elsewhere"); got.Demoted || strings.Contains(got.Note, "demoted") {
			t.Errorf("%+v", got)
		}
	})
}

// A distance that swings around the thresholds changes no order.
func TestDemotionDoesNotFlap(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, quick(selector.Options{}))
		w.list(w.at("z", home, 18*ms, label(selector.ProbeKey, "connect")), w.at("r", nextDoor, 10*ms, label(selector.ProbeKey, "connect")))
		last, changes := "zone", 0
		for i := range 600 {
			w.set("z.example:80", []time.Duration{18 * ms, 26 * ms, 17500 * time.Microsecond, 21 * ms, 30 * ms}[i/7%5])
			time.Sleep(time.Second)
			if first := w.explain().Circles[0].Name; first != last {
				last = first
				changes++
			}
		}
		if changes > 1 {
			t.Errorf("the first circle changed %d times in ten minutes", changes)
		}
	})
}
