package selector_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestPicksOnlyInstancesWithTheProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{},
			instance("nats", home),
			instance("grpc", nextDoor, endpoint(events.GRPC, "10.0.0.1:1")),
			instance("http", farAway, endpoint(events.HTTP, "10.0.0.2:1")),
			instance("tcp", farAway, endpoint(events.TCP, "10.0.0.3:1")),
			instance("https", farAway, endpoint(events.HTTPS, "10.0.0.4:1")),
		)
		for _, protocol := range []string{events.NATS, events.GRPC, events.HTTP, events.HTTPS, events.TCP} {
			for range 2 { // the vantage is made, and found
				if got := w.only(selector.Request{Protocol: protocol}); !slices.Equal(got, []string{protocol}) {
					t.Errorf("%s: picked %v", protocol, got)
				}
			}
		}
		_, err := w.try(selector.Request{Protocol: "smtp"})
		none, ok := errors.AsType[*selector.NoInstanceError](err)
		if !ok {
			t.Fatalf("error %v, want NoInstanceError", err)
		}
		if got := none.Circles[0]; got.OtherProtocol != 1 || got.Instances != 1 {
			t.Errorf("%+v, want one without the protocol", got)
		}
		// The vantages follow the list.
		w.list(instance("here", home, endpoint(events.HTTP, "10.0.0.5:1")))
		if got := w.only(selector.Request{Protocol: events.HTTP}); !slices.Equal(got, []string{"here"}) {
			t.Errorf("picked %v after here has come", got)
		}
	})
}

// also adds an endpoint.
func also(protocol, address string) func(*events.Entry) {
	return func(e *events.Entry) { e.Endpoints[protocol] = address }
}

func TestPicksByTheNameOfAnEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{},
			instance("plain", home, endpoint(events.HTTP, "10.0.0.1:1")),
			instance("both", nextDoor, endpoint(events.HTTP, "10.0.0.2:1"), also("http.admin", "10.0.0.2:2")),
			instance("admin", farAway, endpoint("http.admin", "10.0.0.3:2")),
			instance("grpcs", farAway, endpoint(events.GRPCS, "10.0.0.4:2")),
			instance("udp", farAway, endpoint("udp", "10.0.0.5:2"), also("udp.dns", "10.0.0.5:3")),
		)
		for protocol, want := range map[string][]string{
			events.HTTP: {"plain"}, "http.admin": {"both"}, events.GRPCS: {"grpcs"}, events.UDP: {"udp"}, "udp.dns": {"udp"},
		} {
			for range 2 {
				if got := w.only(selector.Request{Protocol: protocol}); !slices.Equal(got, want) {
					t.Errorf("%s: picked %v, want %v", protocol, got, want)
				}
			}
		}
		if got := w.only(selector.Request{Protocol: "http.admin", From: &farAway}); !slices.Equal(got, []string{"admin"}) {
			t.Errorf("http.admin from far away: picked %v", got)
		}
		for _, protocol := range []string{"http.other", "grpc.admin", "http.", ".admin", "."} {
			if _, err := w.try(selector.Request{Protocol: protocol}); !errors.Is(err, selector.ErrNoInstance) {
				t.Errorf("%s: error %v, want ErrNoInstance", protocol, err)
			}
		}
		// The vantages follow the list.
		w.list(instance("plain", home, endpoint(events.HTTP, "10.0.0.1:1"), also("http.other", "10.0.0.1:2")))
		if got := w.only(selector.Request{Protocol: "http.other"}); !slices.Equal(got, []string{"plain"}) {
			t.Errorf("picked %v after one with the endpoint has come", got)
		}
		if _, err := w.try(selector.Request{Protocol: "http.admin"}); !errors.Is(err, selector.ErrNoInstance) {
			t.Errorf("http.admin: error %v after the last one has gone", err)
		}
	})
}

// Names of endpoints come from outside.
func TestManyNamesOfEndpointsCostNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home, endpoint("http.n0", "10.0.0.1:1"), also("http.last", "10.0.0.1:2")))
		for i := range 100 {
			_, err := w.try(selector.Request{Protocol: fmt.Sprint("http.n", i)})
			if (err == nil) != (i == 0) {
				t.Fatalf("http.n%d: %v", i, err)
			}
		}
		if _, err := w.try(selector.Request{Protocol: "http.last"}); !errors.Is(err, selector.ErrNoInstance) {
			t.Errorf("after 100 names: error %v, want ErrNoInstance", err)
		}
		if got := w.only(selector.Request{Protocol: "http.n0"}); !slices.Equal(got, []string{"a"}) {
			t.Errorf("the first name picks %v", got)
		}
	})
}

func TestASocketIsPickedOnItsHostOnly(t *testing.T) {
	here := topology.Location{Region: "us", Zone: "us-a", Host: "n1"}
	next := topology.Location{Region: "us", Zone: "us-a", Host: "n2"}
	sidecar := func(id string, at topology.Location, endpoints map[string]string) events.Entry {
		e := instance(id, at)
		e.Endpoints = endpoints
		return e
	}
	entries := []events.Entry{
		sidecar("here", here, map[string]string{"http": "unix:/run/proxima/user.sock", "http.admin": "unix:/run/proxima/admin.sock"}),
		sidecar("next", next, map[string]string{"http": "unix:/run/proxima/user.sock"}),
		sidecar("escape", here, map[string]string{"http": "unix:/run/proximate/user.sock"}),
		sidecar("docker", here, map[string]string{"http": "unix:/var/run/docker.sock", "http.admin": "unix:/run/docker.sock"}),
		sidecar("mixed", next, map[string]string{"http": "unix:/run/proxima/user.sock", "grpc": "10.0.0.1:1"}),
	}
	for _, tt := range []struct {
		name     string
		options  selector.Options
		ask      selector.Request
		wantOnly []string
	}{
		{"http on the host", selector.Options{Location: here, Sockets: "/run/proxima"}, selector.Request{Protocol: "http"}, []string{"here"}},
		{"an endpoint with a name", selector.Options{Location: here, Sockets: "/run/proxima"}, selector.Request{Protocol: "http.admin"}, []string{"here"}},
		{"any protocol", selector.Options{Location: here, Sockets: "/run/proxima"}, selector.Request{}, []string{"here", "mixed"}},
		{"without leave", selector.Options{Location: here}, selector.Request{}, []string{"mixed"}},
		{"from another place", selector.Options{Location: here, Sockets: "/run/proxima"}, selector.Request{From: &farAway}, []string{"mixed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, tt.options, entries...)
				if got := w.only(tt.ask); !slices.Equal(got, tt.wantOnly) {
					t.Errorf("picked %v, want %v", got, tt.wantOnly)
				}
				if why := w.candidate("docker", tt.ask).Reason; !strings.Contains(why, "never picked") {
					t.Errorf("a socket elsewhere: %s", why)
				}
			})
		})
	}
	for _, o := range []selector.Options{
		{Location: home, Sockets: "/run/proxima"}, {Location: here, Sockets: "/"}, {Location: here, Sockets: "run"}, {Location: here, Sockets: "/run/"}, {Location: here, Sockets: "/a/../b"},
	} {
		o.Source = always()
		if _, err := selector.New(t.Context(), nil, o); err == nil || !strings.Contains(err.Error(), "Sockets") {
			t.Errorf("Sockets %q at %v: error %v", o.Sockets, o.Location, err)
		}
	}
}

func TestPicksFromAnotherPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list(
			w.at("here", home, time.Millisecond),
			w.at("door", nextDoor, 2*time.Millisecond),
			w.at("far1", farAway, 80*time.Millisecond),
			w.at("far2", farAway, 95*time.Millisecond),
		)
		// What was measured here is not the distance from there.
		if got := w.only(selector.Request{From: &farAway}); !slices.Equal(got, []string{"far1", "far2"}) {
			t.Errorf("from far away: picked %v", got)
		}
		if got := w.only(selector.Request{From: &nextDoor}); !slices.Equal(got, []string{"door"}) {
			t.Errorf("from next door: picked %v", got)
		}
		c := w.candidate("far2", selector.Request{From: &farAway})
		if c.Circle != "zone" || c.DistanceSource != "assumed" || !c.Near {
			t.Errorf("far2 from far away: %+v", c)
		}
		// Another rack of the own zone counts like the own one.
		rack := topology.Location{Region: "us", Zone: "us-a", Rack: "r9"}
		if c := w.candidate("here", selector.Request{From: &rack}); c.DistanceSource != "measured" {
			t.Errorf("from another rack: %+v", c)
		}
		// The tables of other places follow the list, too.
		w.list(w.at("far3", farAway, 80*time.Millisecond))
		if got := w.only(selector.Request{From: &farAway}); !slices.Equal(got, []string{"far3"}) {
			t.Errorf("from far away, after the change: picked %v", got)
		}
		p := w.pick(selector.Request{From: &farAway})
		if p.Circle() != "zone" {
			t.Errorf("circle %q from far away, want zone", p.Circle())
		}
	})
}

// A caller that knows no region takes r/a for its zone, and the rest of r for elsewhere.
func TestFromTheOwnZoneWithItsRegionTheRegionIsNear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Location: topology.Location{Zone: home.Zone}})
		w.list(w.at("here", home, time.Millisecond), instance("door", nextDoor), instance("far", farAway))
		for _, tt := range []struct {
			id, circle, source string
			from               *topology.Location
			distance           float64
		}{
			{"here", "zone", "measured", nil, 1},
			{"door", "elsewhere", "assumed", nil, 150},
			{"here", "zone", "measured", &home, 1},
			{"door", "region", "assumed", &home, 2},
			{"far", "elsewhere", "assumed", &home, 150},
		} {
			if c := w.candidate(tt.id, selector.Request{From: tt.from}); c.Circle != tt.circle || c.DistanceSource != tt.source || c.DistanceMS != tt.distance {
				t.Errorf("%s from %v: %s, %v ms %s; want %s, %v ms %s", tt.id, tt.from, c.Circle, c.DistanceMS, c.DistanceSource, tt.circle, tt.distance, tt.source)
			}
		}
	})
}

func TestThereMayBeRequestsFromAnyNumberOfPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var entries []events.Entry
		for i := range 200 {
			entries = append(entries, instance(fmt.Sprint("i", i), topology.Location{Region: "us", Zone: fmt.Sprint("z", i)}))
		}
		w := start(t, selector.Options{}, entries...)
		for range 2 {
			for i := range 200 {
				from := topology.Location{Region: "us", Zone: fmt.Sprint("z", i)}
				if got := w.picks(5, selector.Request{From: &from})[fmt.Sprint("i", i)]; got != 5 {
					t.Fatalf("from %v: %d of 5 picks went to the instance there", from, got)
				}
			}
		}
		if got := w.Views("user"); got > 64 {
			t.Errorf("%d vantages are kept, want at most 64", got)
		}
	})
}

// Callers from many hosts of a zone see the same as one, unless hosts are a level.
func TestCallersThatDifferInNoLevelShareAView(t *testing.T) {
	in := func(zone string, i int) *topology.Location {
		return &topology.Location{Region: "us", Zone: zone, Rack: fmt.Sprint("r", i%7), Host: fmt.Sprint("h", i)}
	}
	for _, tt := range []struct {
		name   string
		levels topology.Levels
		labels map[string]string
		want   int
	}{
		{"zone, region", nil, nil, 1},
		{"rack, zone, region", topology.Levels{topology.Rack, topology.Zone, topology.Region}, nil, 7 + 7},
		{"a label and zone", topology.Levels{topology.Zone, "carrier"}, map[string]string{"carrier": "c"}, 2},
		{"none", topology.Levels{}, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Levels: tt.levels, Labels: tt.labels}, instance("a", home), instance("b", nextDoor))
				for i := range 200 {
					w.picks(1, selector.Request{From: in("us-a", i)})
					w.picks(1, selector.Request{From: in("us-b", i)})
				}
				if got := w.Views("user"); got != tt.want {
					t.Errorf("%d vantages, want %d", got, tt.want)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Levels: topology.Levels{topology.Host, topology.Zone}},
			instance("a", *in("us-b", 1)), instance("b", *in("us-b", 2)))
		for i, want := range map[int]string{1: "a", 2: "b"} {
			if got := w.only(selector.Request{From: in("us-b", i)}); !slices.Equal(got, []string{want}) {
				t.Errorf("from host %d picks go to %v, want %s", i, got, want)
			}
		}
		if got := w.explain(selector.Request{From: in("us-b", 1)}).From; got != "us/us-b/r1/h1" {
			t.Errorf("Explain is about %s", got)
		}
	})
}

// The zone of a selector that does not know its own is not that of other callers.
func TestAnUnknownZoneIsNotThatOfOtherCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Location: topology.Location{Region: "us", Host: "h"}}, instance("a", home))
		w.picks(1, selector.Request{From: &topology.Location{Region: "us", Host: "other"}})
		if got := w.Views("user"); got != 1 {
			t.Errorf("%d vantages, want one of its own", got)
		}
	})
}

// Places that are used stay, however many others are asked for once.
func TestTheViewThatWasNotUsedForLongestGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home), instance("b", nextDoor))
		zone := func(kind string, i int) topology.Location {
			return topology.Location{Region: "us", Zone: fmt.Sprint(kind, i)}
		}
		for stranger := range 500 {
			for i := range 50 {
				from := zone("used", i)
				if stranger > 0 && !w.Sees("user", from) {
					t.Fatalf("the vantage from %v went, after %d strangers", from, stranger)
				}
				w.picks(1, selector.Request{From: &from})
			}
			time.Sleep(200 * time.Millisecond)
			from := zone("stranger", stranger)
			w.picks(1, selector.Request{From: &from})
		}
	})
}

func TestExcludedInstancesAreNotPicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home), instance("b", home), instance("c", nextDoor))
		for _, step := range []struct{ avoid, want []string }{
			{[]string{"a"}, []string{"b"}},
			{[]string{"a", "b"}, []string{"c"}},
			{[]string{"c", "x"}, []string{"a", "b"}},
		} {
			if got := w.only(selector.Request{Avoid: step.avoid}); !slices.Equal(got, step.want) {
				t.Errorf("avoiding %v: picked %v, want %v", step.avoid, got, step.want)
			}
		}
		_, err := w.try(selector.Request{Avoid: []string{"a", "b", "c"}})
		none, ok := errors.AsType[*selector.NoInstanceError](err)
		if !ok || none.Avoided != 3 {
			t.Errorf("error %v, want a NoInstanceError with three avoided", err)
		}
		if want := "selector: no usable instance of user: zone has 2, 2 usable; region has 1, 1 usable; 3 excluded or tried before"; err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
	})
}

// IDs are unique in a zone only: a StatefulSet in each zone has a user-0 in each.
func TestInstancesWithTheSameIDAreExcludedOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := topology.Location{Region: "eu", Zone: "us-a"} // a zone of the same name
		key := func(at topology.Location) string { return instance("user-0", at).Key().String() }
		w := start(t, selector.Options{Levels: topology.Levels{}},
			instance("user-0", home), instance("user-0", nextDoor), instance("user-0", other), instance("user-0", nowhere), instance("r-0", home))
		places := func(avoid ...string) (all []string) {
			for range 200 {
				p := w.pick(selector.Request{Avoid: avoid})
				all = append(all, p.ID+" "+p.Location.String())
				p.Done(nil)
			}
			slices.Sort(all)
			return slices.Compact(all)
		}
		for _, tt := range []struct{ avoid, want []string }{
			{[]string{"user-0"}, []string{"r-0 us/us-a"}},
			{[]string{"us-b/user-0", "r-0"}, []string{"user-0 _/_", "user-0 eu/us-a", "user-0 us/us-a"}},
			{[]string{"us-a/user-0", "r-0"}, []string{"user-0 _/_", "user-0 us/us-b"}},
			{[]string{key(home), "us-a/r-0"}, []string{"user-0 _/_", "user-0 eu/us-a", "user-0 us/us-b"}},
			{[]string{key(nowhere), key(other), "user.us.us-a.r-0"}, []string{"user-0 us/us-a", "user-0 us/us-b"}},
			{[]string{"_/user-0", key(nextDoor), "us-a/user-0"}, []string{"r-0 us/us-a"}},
			// None of these names an instance.
			{[]string{"", "/user-0", ".user-0", "us/us-a/user-0", "us-a.user-0", "other.us.us-a.user-0", "0", "ser-0", "us-a/", "us-a"}, []string{"r-0 us/us-a", "user-0 _/_", "user-0 eu/us-a", "user-0 us/us-a", "user-0 us/us-b"}},
		} {
			if got := places(tt.avoid...); !slices.Equal(got, tt.want) {
				t.Errorf("avoiding %q: picked %q, want %q", tt.avoid, got, tt.want)
			}
		}
	})
}

func TestOnPickIsCalledForEveryPickAndCannotEndIt(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				heard := make(map[string]int)
				w := start(t, selector.Options{Strategy: strategy, OnPick: func(p selector.Pick) {
					heard[p.ID+" "+p.Circle()]++
					p.Done(errRefused)
				}}, instance("a", home))
				w.picks(10)
				p := w.pick(selector.Request{Protocol: events.NATS})
				if heard["a zone"] != 11 || len(heard) != 1 {
					t.Errorf("heard of %v, want 11 times a zone", heard)
				}
				if c := w.candidate("a"); c.InFlight != 1 || c.Breaker != "closed" {
					t.Errorf("in flight %d, breaker %s, want 1, closed", c.InFlight, c.Breaker)
				}
				p.Done(nil)
			})
		})
	}
}

func TestDoneTwiceIsHarmless(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, instance("a", home))
				p, q := w.pick(), w.pick()
				p.Done(nil)
				p.Done(errRefused)
				p.DoneAfter(errRefused, time.Second)
				if c := w.candidate("a"); c.InFlight != 1 || c.Breaker != "closed" {
					t.Errorf("in flight %d, breaker %s, want 1, closed", c.InFlight, c.Breaker)
				}
				q.DoneAfter(nil, time.Millisecond)
				q.Done(errRefused)
				if c := w.candidate("a"); c.InFlight != 0 || c.Breaker != "closed" {
					t.Errorf("in flight %d, breaker %s, want 0, closed", c.InFlight, c.Breaker)
				}
			})
		})
	}
}

// A caller that ignores the error must not crash.
func TestThePickOfAnErrorCanBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{})
		p, err := w.try()
		if !errors.Is(err, selector.ErrUnknownService) || p.Instance != nil {
			t.Fatalf("picked %v, %v", p.Instance, err)
		}
		p.Done(nil)
		p.DoneAfter(nil, 0)
		if c := p.Circle(); c != "" {
			t.Errorf("circle %q, want none", c)
		}
	})
}
