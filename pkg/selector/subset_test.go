package selector_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/subset"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

type (
	eventsSnapshot = events.Snapshot
	eventsInstance = events.Instance
)

func version(v string) func(*events.Entry) { return func(e *events.Entry) { e.Version = v } }

func where(text string) selector.Request { return selector.Request{Where: text} }

func TestPicksOnlyInstancesOfTheSubset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{},
			instance("a1", home, version("1.0.0")), instance("a2", home, version("2.0.0")),
			instance("b2", nextDoor, version("2.1.0"), endpoint(events.HTTP, "10.0.0.1:1")), instance("c3", farAway, version("3.0.0"), label("canary", "yes")))
		for text, want := range map[string][]string{
			"version<2": {"a1"}, "version>=2": {"a2"}, "version>=2.1": {"b2"}, "canary": {"c3"}, "!canary": {"a1", "a2"},
			"zone!=us-a": {"b2"}, "region=eu": {"c3"}, " version >= 2.1 , version < 3 ": {"b2"}, "id in (a1,c3)": {"a1"},
		} {
			if got := w.only(where(text)); !slices.Equal(got, want) {
				t.Errorf("%s: picked %v, want %v", text, got, want)
			}
		}
		if got := w.only(selector.Request{Where: "version>=2", Protocol: events.HTTP}); !slices.Equal(got, []string{"b2"}) {
			t.Errorf("with a protocol: picked %v", got)
		}
		if got := w.only(selector.Request{Where: "version>=2", From: &farAway}); !slices.Equal(got, []string{"c3"}) {
			t.Errorf("from far away: picked %v", got)
		}
		for _, s := range selector.Strategies() {
			if got := w.only(selector.Request{Where: "version>=2,region=us", Strategy: s, Key: "k"}); !slices.Equal(got, []string{"a2"}) {
				t.Errorf("by %s: picked %v", s, got)
			}
		}
		// Membership follows the records.
		w.list(instance("a1", home, version("2.0.0")), instance("b2", nextDoor, version("2.1.0")))
		if got := w.only(where("version>=2")); !slices.Equal(got, []string{"a1"}) {
			t.Errorf("after the change: picked %v", got)
		}
	})
}

func TestAnExpressionThatCannotBeReadIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home))
		_, err := w.try(where("version>"))
		if e, ok := errors.AsType[*subset.Error](err); !ok || e.At != len("version>") {
			t.Errorf("%v", err)
		}
		if err := w.DoFor(t.Context(), selector.Request{Service: "user", Where: "a in"}, nil); err == nil || !strings.Contains(err.Error(), "want values in parentheses") {
			t.Errorf("%v", err)
		}
		if _, err := w.Explain(t.Context(), selector.Request{Service: "user", Where: "="}); err == nil {
			t.Error("it is explained")
		}
	})
}

func TestWhatNothingMatchesIsAnErrorWithCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, patient(selector.Options{}), instance("a", home, version("1.0.0")), instance("b", home, version("2.0.0"), status(events.NotReady)))
		for text, want := range map[string]string{
			"version=3.0.0": "selector: no usable instance of user where version=3.0.0 (2 listed, 0 match, 0 usable)",
			"version=2.0.0": "selector: no usable instance of user where version=2.0.0 (2 listed, 1 match, 0 usable): zone has 1, 1 not ready",
		} {
			_, err := w.try(where(text))
			if !errors.Is(err, selector.ErrNoInstance) || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		e := w.explain(where("version=2.0.0"))
		if e.Where != "version=2.0.0" || e.Rule != "request" || !strings.Contains(e.Instances[1].Reason, "outside of the subset") || !e.Instances[1].OutsideSubset || e.Instances[0].OutsideSubset {
			t.Errorf("%+v", e)
		}
		w.list()
		if _, err := w.try(where("version=2.0.0")); !errors.Is(err, selector.ErrUnknownService) {
			t.Errorf("without instances: %v", err)
		}
	})
}

// What takes instances out is judged within the subset.
func TestPanicBreakersAndEvacuationHoldWithinTheSubset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, patient(selector.Options{}), join(some("a", home, 6, 6, version("1.0.0")), some("b", home, 4, 4, version("2.0.0")))...)
		w.fail("b0", "b1", "b2")
		if got := w.near(where("version=2.0.0")); len(got) != 2 || !slices.Contains(got, "b3") {
			t.Errorf("half of the subset are %v", got)
		}
		if e := w.explain(where("version=2.0.0")); !e.Panic {
			t.Error("the subset is not in panic")
		}
		if e := w.explain(); e.Panic {
			t.Error("the service is in panic")
		}
		w.list(join(some("a", home, 6, 6, version("1.0.0")), some("b", home, 4, 4, version("2.0.0"), evacuated), some("c", farAway, 1, 1, version("2.0.0")))...)
		if got := w.only(where("version=2.0.0")); !slices.Equal(got, []string{"c0"}) {
			t.Errorf("evacuated: picked %v", got)
		}
		w.list(join(some("a", home, 6, 6, version("1.0.0")), some("b", home, 2, 2, version("2.0.0"), suspect))...)
		if got := w.only(where("version=2.0.0")); !slices.Contains(got, "b0") || slices.Contains(got, "a0") {
			t.Errorf("suspects: picked %v", got)
		}
	})
}

// near are the instances of the near set.
func (w *world) near(r ...selector.Request) (ids []string) {
	w.t.Helper()
	for _, c := range w.explain(r...).Instances {
		if c.Near {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func TestRetriesStayInTheSubset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"splits":[{"where":"version=2.0.0","share":1,"fallback":"none"}]}`)
		w.list(join(some("a", home, 6, 6, version("1.0.0")), some("b", home, 2, 2, version("2.0.0")), some("c", farAway, 1, 1, version("2.0.0")))...)
		called, err := w.do(selector.Request{}, errCall, errCall, errCall, errCall)
		if !slices.Contains(called, "c0") || slices.ContainsFunc(called, func(id string) bool { return id[0] == 'a' }) || err == nil {
			t.Errorf("called %v: %v", called, err)
		}
		w.set(`{"splits":[{"where":"version=2.0.0","share":1}]}`)
		time.Sleep(time.Minute)
		called, err = w.do(selector.Request{}, errCall, errCall, errCall)
		if len(called) != 4 || called[3][0] != 'a' || err != nil {
			t.Errorf("with the fallback any: called %v: %v", called, err)
		}
	})
}

func TestTheFallbackTakesAnyInstanceOnlyWhenNoneOfTheSubsetIsUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, patient(selector.Options{}), `{"where":"version=2.0.0","fallback":"any"}`)
		a, b := instance("a", home, version("1.0.0")), instance("b", farAway, version("2.0.0"))
		w.list(a, b)
		w.wantOnly("usable", []string{"b"})
		for what, e := range map[string]events.Entry{
			"draining":  instance("b", farAway, version("2.0.0"), status(events.Draining)),
			"suspect":   instance("b", farAway, version("2.0.0"), suspect),
			"not ready": instance("b", farAway, version("2.0.0"), status(events.NotReady)),
			"evacuated": instance("b", farAway, version("2.0.0"), evacuated),
			"another":   instance("b", farAway, version("3.0.0")),
		} {
			w.list(a, e)
			if got := w.only(); slices.Contains(got, "b") && what != "another" || !slices.Contains(got, "a") {
				t.Errorf("%s: picked %v", what, got)
			}
			if e := w.explain(); !e.FellBack || e.Rule != "where version=2.0.0" {
				t.Errorf("%s: explained as %+v", what, e)
			}
		}
		w.list(a, b)
		w.fail("b")
		w.wantOnly("with an open breaker", []string{"a"})
		// No other one is better.
		w.list(instance("a", home, version("1.0.0"), status(events.NotReady)), b)
		w.wantOnly("when the others are not usable", []string{"b"})
		s := w.Stats().Services[0].Rules
		if len(s) != 1 || s[0].Rule != "where" || s[0].Where != "version=2.0.0" || s[0].Fallbacks < 200 || s[0].Calls <= s[0].Fallbacks {
			t.Errorf("counted %+v", s)
		}
		w.set(`{"where":"version=2.0.0"}`)
		w.wantOnly("without the fallback", []string{"b"}) // its breaker is open, and there is no other
	})
}

func TestConsistentHashHasARingForEachSubset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.ConsistentHash}, join(some("a", home, 5, 5, version("1.0.0")), some("b", home, 5, 5, version("2.0.0")))...)
		to := func() map[string]string {
			m := map[string]string{}
			for key := range 200 {
				p := w.pick(selector.Request{Where: "version=2.0.0", Key: fmt.Sprint(key)})
				m[fmt.Sprint(key)] = p.ID
				p.Done(nil)
			}
			return m
		}
		before := to()
		w.list(join(some("a", home, 3, 3, version("1.0.0")), some("b", home, 5, 5, version("2.0.0")))...)
		if after := to(); !equalMaps(before, after) {
			t.Error("keys of a subset moved when another one changed")
		}
		// The load of the subset bounds, not that of the service.
		var held []selector.Pick
		for i := range 500 {
			held = append(held, w.pick(selector.Request{Where: "version=1.0.0", Key: fmt.Sprint(i)}))
		}
		count := map[string]int{}
		for range 100 {
			held = append(held, w.pick(selector.Request{Where: "version=2.0.0", Key: "k"}))
			count[held[len(held)-1].ID]++
		}
		for id, n := range count {
			if n > 28 {
				t.Errorf("%s has %d of 100 calls with one key: %v", id, n, count)
			}
		}
		for i := range held {
			held[i].Done(nil)
		}
	})
}

func equalMaps(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

func TestThereMayBeAnyNumberOfExpressions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var entries []events.Entry
		for i := range 300 {
			entries = append(entries, instance(fmt.Sprint("i", i), home, version(fmt.Sprintf("%d.0.0", i))))
		}
		w := start(t, selector.Options{}, entries...)
		for range 2 {
			for i := range 300 {
				ask := where(fmt.Sprintf("version=%d.0.0", i))
				if i%2 == 0 {
					ask.From = &topology.Location{Region: "us", Zone: fmt.Sprint("z", i)}
				}
				if got := w.picks(3, ask)[fmt.Sprint("i", i)]; got != 3 {
					t.Fatalf("version %d: %d of 3 picks went to the instance", i, got)
				}
				// One that is used all the time stays, and so do spellings of it.
				if got := w.picks(1, where([]string{"version=7.0.0", " version = 7.0.0", "version==7.0.0"}[i%3])); got["i7"] != 1 {
					t.Fatalf("picked %v", got)
				}
			}
		}
		if got := w.Subsets("user"); got > 64 {
			t.Errorf("%d subsets have tables, want at most 64", got)
		}
		if got := w.Texts("user"); got > 256 {
			t.Errorf("%d texts are kept, want at most 256", got)
		}
		// Lists change while all bits are taken.
		w.list(instance("other", home, version("7.0.0")), instance("i8", home, version("8.0.0")))
		if got := w.only(where("version=7.0.0")); !slices.Equal(got, []string{"other"}) {
			t.Errorf("picked %v", got)
		}
	})
}

func TestAPickInASubsetDoesNotAllocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, join(some("a", home, 100, 100, version("1.0.0")), some("b", home, 100, 100, version("2.0.0")))...)
		ask := selector.Request{Service: "user", Where: "version=2.0.0", Protocol: events.NATS}
		w.picks(10, ask)
		ctx := context.Background()
		if n := testing.AllocsPerRun(1000, func() {
			p, err := w.PickFor(ctx, ask)
			if err != nil {
				t.Fatal(err)
			}
			p.Done(nil)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}
