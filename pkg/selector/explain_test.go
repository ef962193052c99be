package selector_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestExplainListsEveryInstanceWithItsReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		const ms = time.Millisecond
		w.list(
			w.at("a", home, 400*time.Microsecond, weight(1000)), // so that no pick spills
			w.at("b", home, 900*time.Microsecond),
			w.at("c", home, 3*ms),
			w.at("d", nextDoor, 2*ms),
			w.at("e", farAway, 80*ms),
			w.at("f", home, ms, suspect),
			w.at("g", home, ms, status(events.Draining)),
			w.at("h", home, ms),
			w.at("i", home, ms, status(events.NotReady)),
			w.at("j", home, ms, status(events.Draining)),
			instance("k", nowhere),
		)
		w.call("h", errRefused)
		w.call("j", errRefused)
		time.Sleep(time.Second)
		want := []string{
			"a zone true picked by p2c: in the near set of zone",
			"b zone true picked by p2c: in the near set of zone",
			"c zone false standby: used only when no instance of the near set is available (farther than 1.4 ms, the nearest of zone is at 0.4 ms)",
			"d region false standby: used only when no instance in circle \"zone\" is available (circle zone is nearer)",
			"e elsewhere false standby: used only when no instance in circle \"zone\" is available (circle zone is nearer)",
			"k elsewhere false standby: used only when no instance in circle \"zone\" is available (circle zone is nearer)",
			"f zone false standby: used only when no better instance is available: its lease ended and nothing proves it dead",
			"g zone false standby: used only when no better instance is available: it is about to leave",
			"h zone false standby: used only when no better instance is available: its breaker is open, it refused the connection",
			"j zone false standby: used only when no better instance is available: it is about to leave and its breaker is open, it refused the connection",
			"i zone false never picked: not ready, its own check fails",
		}
		e := w.explain()
		wantReasons(t, e, want)
		if e.Service != "user" || e.From != "us/us-a" || e.Strategy != "p2c" {
			t.Errorf("%s %s %s", e.Service, e.From, e.Strategy)
		}
		if c := w.candidate("d"); c.DistanceMS != 2 || c.DistanceSource != "measured" {
			t.Errorf("d: %v ms %s, want 2 ms measured", c.DistanceMS, c.DistanceSource)
		}
		if c := w.candidate("k"); c.DistanceMS != 150 || c.DistanceSource != "assumed" {
			t.Errorf("k: %v ms %s, want 150 ms assumed", c.DistanceMS, c.DistanceSource)
		}
		wantReasons(t, w.explain(selector.Request{Protocol: events.HTTP}), []string{
			"a zone false never picked: it has no http endpoint",
		})
	})
}

func TestExplainShowsWhatIsPickedWhenNoInstanceIsUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Strategy: selector.Nearest})
		const ms = time.Millisecond
		w.list(
			w.at("a", home, ms, suspect), w.at("b", home, ms+ms/2, suspect), w.at("c", home, 9*ms, suspect),
			w.at("d", nextDoor, ms, suspect), w.at("e", home, ms, status(events.Draining)),
		)
		wantReasons(t, w.explain(), []string{
			"a zone true picked by nearest: in the near set of zone, because no better instance is available: its lease ended and nothing proves it dead",
			"b zone true standby: used only when the nearest instance in circle \"zone\" is not available: its lease ended and nothing proves it dead",
			"c zone false standby: used only when no instance of the near set is available (farther than 2 ms, the nearest of zone is at 1 ms): its lease ended and nothing proves it dead",
			"d region false standby: used only when no instance in circle \"zone\" is available (circle zone is nearer): its lease ended and nothing proves it dead",
			"e zone false standby: used only when no better instance is available: it is about to leave",
		})
	})
}

// The table of picks may be a little old, that of Explain is not.
func TestExplainIsNeverBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(4)...)
		for i := range 3 {
			w.call(fmt.Sprint("i", i), errRefused)
			for _, c := range w.explain().Instances {
				if open := strings.Contains(c.Reason, "its breaker is open"); open != (c.Breaker == "open") || open == c.Near {
					t.Errorf("%s: breaker %s, %s", c.ID, c.Breaker, c.Reason)
				}
			}
		}
	})
}

// Picks try instances in the order in which Explain lists them.
func TestPicksFollowTheOrderOfExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Strategy: selector.Nearest})
		const ms = time.Millisecond
		w.list(
			w.at("a", home, 7*ms), w.at("b", home, ms, weight(1000)), w.at("c", home, 3*ms, suspect), w.at("d", nextDoor, 2*ms),
			w.at("e", farAway, 90*ms), w.at("f", farAway, 80*ms), w.at("g", home, ms, status(events.Draining)), w.at("h", nextDoor, 3*ms),
			w.at("i", farAway, 70*ms), w.at("j", home, ms, status(events.NotReady)),
		)
		w.call("h", errRefused)
		w.call("i", errRefused)
		time.Sleep(time.Second)
		var avoid []string
		for _, c := range w.explain().Instances {
			p, err := w.try(selector.Request{Avoid: avoid})
			if c.ID == "j" {
				if err == nil {
					t.Errorf("picked %s, which is not ready", p.ID)
				}
				continue
			}
			if err != nil || p.ID != c.ID {
				t.Fatalf("picked %v, %v, want %s", p.Instance, err, c.ID)
			}
			p.Done(nil)
			avoid = append(avoid, p.ID)
		}
	})
}

func TestAnExplanationInJSONIsTheContract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list(w.at("a", home, 410*time.Microsecond, label("team", "a<b")))
		p := w.pick()
		p.DoneAfter(nil, 1500*time.Microsecond)
		w.pick()
		e := w.explain()
		data, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		want := `{"service":"user","stale":false,"from":"us/us-a","strategy":"p2c","panic":false,"circles":[` +
			`{"circle":"zone","instances":1,"usable":1,"share":1,"best_ms":0.41,"distance_source":"measured","demoted":false,"load":1,"note":""}],"instances":[` +
			`{"id":"a","service":"user","incarnation":"1","endpoints":{"tcp":"a.example:80"},"location":{"region":"us","zone":"us-a"},` +
			`"status":"up","weight":100,"metadata":{"team":"a<b"},"ttl":"15s",` +
			`"circle":"zone","distance_ms":0.41,"distance_source":"measured","breaker":"closed","suspect":false,"evacuated":false,"dead":false,` +
			`"in_flight":1,"picks":2,"call_ms":1.5,"near":true,"reason":"picked by p2c: in the near set of zone"}]}`
		// encoding/json escapes what Instance.MarshalJSON does not.
		if got := strings.ReplaceAll(string(data), `\u003c`, "<"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		var back selector.Explanation
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, back, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
			t.Errorf("after the way through JSON (-want +got):\n%s", diff)
		}
		e.Instances = slices.Clone(e.Instances)
		if err := json.Unmarshal([]byte(`{"id":5}`), &e.Instances[0]); err == nil {
			t.Error("read an id that is a number")
		}
		if err := json.Unmarshal([]byte(`{"id":"a","near":5}`), &e.Instances[0]); err == nil {
			t.Error("read a near that is a number")
		}
	})
}
