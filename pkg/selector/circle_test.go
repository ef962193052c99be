package selector_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestPicksTheNearestCircleThatHasAWorkingInstance(t *testing.T) {
	for _, tt := range []struct {
		name    string
		from    topology.Location
		entries []events.Entry
		want    []string
		circle  string
	}{
		{
			"same zone before same region before elsewhere", home,
			[]events.Entry{instance("far", farAway), instance("near", nextDoor), instance("here", home)},
			[]string{"here"},
			"zone",
		},
		{
			"same region when the zone has none", home,
			[]events.Entry{instance("far", farAway), instance("near", nextDoor)},
			[]string{"near"},
			"region",
		},
		{
			"elsewhere when the region has none", home,
			[]events.Entry{instance("far", farAway)},
			[]string{"far"},
			"elsewhere",
		},
		{
			"a zone of that name in another region is another zone", home,
			[]events.Entry{instance("far", topology.Location{Region: "eu", Zone: "us-a"}), instance("near", nextDoor)},
			[]string{"near"},
			"region",
		},
		{
			"unknown is not near to unknown", nowhere,
			[]events.Entry{instance("lost", nowhere)},
			[]string{"lost"},
			"elsewhere",
		},
		{
			"an unknown location belongs to the last circle only", home,
			[]events.Entry{instance("lost", nowhere), instance("near", nextDoor)},
			[]string{"near"},
			"region",
		},
		{
			"an unknown zone of the same region is in the region", home,
			[]events.Entry{instance("far", farAway), instance("near", topology.Location{Region: "us"})},
			[]string{"near"},
			"region",
		},
		{
			"from an unknown place all are elsewhere", nowhere,
			[]events.Entry{instance("a", farAway), instance("b", home)},
			[]string{"a", "b"},
			"elsewhere",
		},
		{
			"suspects after all others", home,
			[]events.Entry{instance("here", home, suspect), instance("far", farAway)},
			[]string{"far"},
			"elsewhere",
		},
		{
			"nearest suspect when there is nothing else", home,
			[]events.Entry{instance("here", home, suspect), instance("far", farAway, suspect)},
			[]string{"here"},
			"zone",
		},
		{
			"draining after suspect", home,
			[]events.Entry{instance("here", home, status(events.Draining)), instance("far", farAway, suspect)},
			[]string{"far"},
			"elsewhere",
		},
		{
			"nearest draining when there is nothing else", home,
			[]events.Entry{instance("near", nextDoor, status(events.Draining)), instance("far", farAway, status(events.Draining))},
			[]string{"near"},
			"region",
		},
		{
			"never one that is not ready", home,
			[]events.Entry{instance("here", home, status(events.NotReady)), instance("far", farAway, status(events.Draining))},
			[]string{"far"},
			"elsewhere",
		},
		{
			"not ready and suspect is not ready", home,
			[]events.Entry{instance("here", home, status(events.NotReady), suspect), instance("far", farAway, suspect)},
			[]string{"far"},
			"elsewhere",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The selector's own location cannot be set to unknown: it
				// would be detected. So the request names another place.
				w := start(t, selector.Options{}, tt.entries...)
				requests := []selector.Request{{From: &tt.from}}
				if tt.from == home {
					requests = append(requests, selector.Request{})
				}
				for _, r := range requests {
					if got := w.only(r); !slices.Equal(got, tt.want) {
						t.Errorf("picked %v, want %v", got, tt.want)
					}
					p := w.pick(r)
					if got := p.Circle(); got != tt.circle {
						t.Errorf("circle %q, want %q", got, tt.circle)
					}
					p.Done(nil)
				}
			})
		})
	}
}

func TestLevelsMakeTheCircles(t *testing.T) {
	here := topology.Location{Region: "us", Zone: "us-a", Rack: "r1", Host: "h1"}
	all := []events.Entry{
		instance("host", here),
		instance("rack", topology.Location{Region: "us", Zone: "us-a", Rack: "r1", Host: "h2"}),
		instance("zone", topology.Location{Region: "us", Zone: "us-a", Rack: "r2", Host: "h3"}),
		instance("region", nextDoor),
		instance("elsewhere", farAway),
	}
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{
			Location: here,
			Levels:   topology.Levels{topology.Host, topology.Rack, topology.Zone, topology.Region},
		}, all...)
		for i, e := range all {
			w.list(all[i:]...)
			p := w.pick()
			if p.ID != e.ID || p.Circle() != e.ID {
				t.Errorf("picked %s of circle %s, want %s", p.ID, p.Circle(), e.ID)
			}
			p.Done(nil)
		}
	})
}

func TestALevelMayBeAMetadataKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{
			Levels: topology.Levels{"carrier", topology.Region},
			Labels: map[string]string{"carrier": "a"},
		}, instance("other", home, label("carrier", "b")), instance("same", nextDoor, label("carrier", "a")))
		p := w.pick()
		if p.ID != "same" || p.Circle() != "carrier" {
			t.Errorf("picked %s of circle %s, want same of carrier", p.ID, p.Circle())
		}
		// Another place has no labels, so only the region counts.
		p = w.pick(selector.Request{From: &nextDoor})
		if p.Circle() != "region" {
			t.Errorf("circle %s from next door, want region", p.Circle())
		}
	})
}

func TestWithoutLevelsAllIsElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Levels: topology.Levels{}}, instance("here", home), instance("far", farAway))
		if got, want := w.only(), []string{"far", "here"}; !slices.Equal(got, want) {
			t.Errorf("picked %v, want %v", got, want)
		}
	})
}

func TestTheNearSetIsWhatIsAboutAsNearAsTheNearest(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name string
		at   []time.Duration // of a, b, c …
		opts selector.Options
		want []string
	}{
		{"within 1 ms of the nearest", []time.Duration{ms, 2 * ms, 2*ms + 1}, selector.Options{}, []string{"a", "b"}},
		{"within a quarter of its distance", []time.Duration{100 * ms, 125 * ms, 125*ms + 1}, selector.Options{}, []string{"a", "b"}},
		{"whatever the order", []time.Duration{9 * ms, 100 * ms, 1 * ms}, selector.Options{}, []string{"c"}},
		{"slack can be set", []time.Duration{ms, 6 * ms, 7 * ms}, selector.Options{Near: selector.Near{Slack: 5 * ms}}, []string{"a", "b"}},
		{"the factor can be set", []time.Duration{10 * ms, 20 * ms, 21 * ms}, selector.Options{Near: selector.Near{Factor: 2}}, []string{"a", "b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tt.opts)
				var entries []events.Entry
				for i, d := range tt.at {
					entries = append(entries, w.at(string(rune('a'+i)), home, d))
				}
				w.list(entries...)
				if got := w.only(); !slices.Equal(got, tt.want) {
					t.Errorf("picked %v, want %v", got, tt.want)
				}
				for _, c := range w.explain().Instances {
					if want := slices.Contains(tt.want, c.ID); c.Near != want {
						t.Errorf("%s: near %v, want %v", c.ID, c.Near, want)
					}
				}
			})
		})
	}
}

// Zones are up to a millisecond apart. Where no zone is known, that must not count as
// equally near.
func TestWithoutZonesTheNearSetIsNarrow(t *testing.T) {
	const us = time.Microsecond
	region, unknown := topology.Location{Region: "us"}, topology.Location{}
	byZone := topology.DefaultLevels()
	for _, tt := range []struct {
		name         string
		caller, them topology.Location
		opts         selector.Options
		want         []string
	}{
		{"zones are known", home, home, selector.Options{Levels: byZone}, []string{"door", "host", "zone"}},
		{"of neither", unknown, unknown, selector.Options{Levels: byZone}, []string{"host"}},
		{"not of the caller", unknown, home, selector.Options{Levels: byZone}, []string{"host"}},
		{"not of the instances", home, unknown, selector.Options{Levels: byZone}, []string{"host"}},
		{"but the region is", region, region, selector.Options{Levels: byZone}, []string{"host"}},
		{"the caller's region is", region, home, selector.Options{Levels: byZone}, []string{"host"}},
		{"the instances' region is", home, region, selector.Options{Levels: byZone}, []string{"host"}},
		{"zones are no level", home, home, selector.Options{Levels: topology.Levels{topology.Region}}, []string{"host"}},
		{"there are no levels", home, home, selector.Options{Levels: topology.Levels{}}, []string{"host"}},
		{"the slack that is set holds", unknown, unknown, selector.Options{Near: selector.Near{Slack: 300 * us}}, []string{"host", "zone"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d distances
				o := tt.opts
				o.Source, o.Location, o.Logger, o.Latency.Dial = always(
					d.at("host", tt.them, 50*us), d.at("zone", tt.them, 300*us), d.at("door", tt.them, 1000*us),
				), tt.caller, silent, d.dial
				s, err := selector.New(t.Context(), nil, o)
				if err != nil {
					t.Fatal(err)
				}
				w := &world{t: t, Selector: s}
				defer func() { _ = s.Close() }()
				w.explain()
				time.Sleep(time.Second)
				synctest.Wait()
				if got := w.only(); !slices.Equal(got, tt.want) {
					t.Errorf("picked %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestWithoutZonesAQuarterFartherIsNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Levels: topology.Levels{}})
		w.list(w.at("a", nowhere, 10*time.Millisecond), w.at("b", nowhere, 12*time.Millisecond), w.at("c", nowhere, 13*time.Millisecond))
		if got, want := w.only(), []string{"a", "b"}; !slices.Equal(got, want) {
			t.Errorf("picked %v, want %v", got, want)
		}
	})
}

func TestANearerCircleIsPickedThoughItMeasuresFarther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list(w.at("here", home, 10*time.Millisecond), w.at("near", nextDoor, time.Millisecond))
		if got := w.only(); !slices.Equal(got, []string{"here"}) {
			t.Errorf("picked %v, want here", got)
		}
	})
}

func TestPicksFollowMeasuredDistances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list(w.at("a", farAway, 20*time.Millisecond), w.at("b", nowhere, 90*time.Millisecond))
		if got := w.only(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("picked %v, want a, the nearer one elsewhere", got)
		}
		w.set("a.example:80", 200*time.Millisecond)
		time.Sleep(2 * time.Minute)
		if got := w.only(); !slices.Equal(got, []string{"b"}) {
			t.Errorf("picked %v after a moved away, want b", got)
		}
	})
}

// If no instance of the near set is available, the nearest of the others is next.
func TestLeavesTheNearSetForTheNextNearest(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const ms = time.Millisecond
				o := selector.Options{Strategy: strategy}
				if strategy == selector.ConsistentHash {
					o.Near.Slack = ms // else its keys are divided among the whole circle
				}
				w := newWorld(t, o)
				w.list(w.at("a", farAway, 20*ms), w.at("b", farAway, 50*ms), w.at("c", farAway, 55*ms), w.at("d", farAway, 150*ms), w.at("e", home, 300*ms, status(events.Draining)))
				for _, step := range []struct{ avoid, want []string }{
					{nil, []string{"a"}},
					{[]string{"a"}, []string{"b", "c"}},
					{[]string{"a", "b"}, []string{"c"}},
					{[]string{"a", "b", "c"}, []string{"d"}},
					{[]string{"a", "b", "c", "d"}, []string{"e"}},
				} {
					want := step.want
					if strategy == selector.Nearest {
						want = want[:1]
					}
					if got := w.only(selector.Request{Avoid: step.avoid}); !slices.Equal(got, want) {
						t.Errorf("without %v: picked %v, want %v", step.avoid, got, want)
					}
				}
			})
		})
	}
}
