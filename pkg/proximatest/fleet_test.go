package proximatest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximatest"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var (
	here  = topology.Location{Region: "us-east-1", Zone: "us-east-1a"}
	there = topology.Location{Region: "us-east-1", Zone: "us-east-1b"}
)

func at(id string, l topology.Location) events.Instance {
	return events.Instance{Service: "user", ID: id, Location: l}
}

// picked is which instance a pick takes, or its error.
func picked(t *testing.T, s *selector.Selector) string {
	t.Helper()
	p, err := s.Pick(t.Context(), "user")
	if err != nil {
		return err.Error()
	}
	p.Done(nil)
	return p.ID
}

func TestEveryChangeDecidesTheNextPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, at("near", here), at("far", there))
		s := f.Selector(selector.Options{Location: here})
		for _, step := range []struct {
			what   string
			change func()
			want   string
		}{
			{"two instances", func() {}, "near"},
			{"the near one drains", func() { f.Drain("user", "near") }, "far"},
			{"it is up again", func() { f.Recover("user", "near") }, "near"},
			{"it is not ready", func() { f.Fail("user", "near") }, "far"},
			{"and up again", func() { f.Recover("user", "near") }, "near"},
			{"its lease has ended", func() { f.Suspect("user", "near") }, "far"},
			{"it renews", func() { f.Recover("user", "near") }, "near"},
			{"its zone is evacuated", func() { f.Evacuate(here.Region, here.Zone, true) }, "far"},
			{"the whole region is, too", func() { f.Evacuate(here.Region, "", true) }, "near"},
			{"the zone is not any more", func() { f.Evacuate(here.Region, here.Zone, false) }, "near"},
			{"nor is the region", func() { f.Evacuate(here.Region, "", false) }, "near"},
			{"they change places", func() { f.Move("user", "near", there); f.Move("user", "far", here) }, "far"},
			{"one is killed", func() { f.Kill("user", "far") }, "near"},
			{"another comes", func() { f.Add(at("new", here)) }, "new"},
			{"all are killed", func() { f.Kill("user", "new"); f.Kill("user", "near") }, `selector: unknown service "user"`},
		} {
			step.change()
			if got := picked(t, s); got != step.want {
				t.Errorf("%s: %s is picked, want %s", step.what, got, step.want)
			}
		}
	})
}

func TestASelectorKnowsThatTheRegistryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, at("near", here))
		s := f.Selector(selector.Options{Location: here})
		for _, away := range []bool{true, false} {
			f.Disconnect(away)
			if got := picked(t, s); got != "near" || s.Health().Stale != away {
				t.Errorf("away %t: %s, %+v", away, got, s.Health())
			}
		}
	})
}

func TestAnInstanceOfAFleetIsAsARegistryListsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := proximatest.New(t, at("b", here), at("a", here), at("a", here))
		s := f.Selector(selector.Options{Location: here})
		if err := s.Ready(t.Context(), "user", 2); err != nil {
			t.Fatal(err)
		}
		var got []string
		for e := range s.Instances("user") {
			if e.Status != events.Up || e.Weight != events.DefaultWeight || e.Endpoints[events.HTTP] != e.ID+".example:80" || e.Revision == 0 {
				t.Errorf("%+v", e.Instance)
			}
			got = append(got, e.ID)
		}
		if fmt.Sprint(got) != "[a b]" {
			t.Errorf("%v are listed", got)
		}
	})
}

// A call to an instance that hangs ends with its deadline, and no time passes for the test.
func ExampleFleet() {
	t := &testing.T{} // that of your test
	synctest.Test(t, func(t *testing.T) {
		fleet := proximatest.New(t,
			events.Instance{Service: "user", ID: "near", Location: topology.Location{Region: "eu", Zone: "a"}},
			events.Instance{Service: "user", ID: "far", Location: topology.Location{Region: "eu", Zone: "b"}})
		users := fleet.Selector(selector.Options{Location: topology.Location{Region: "eu", Zone: "a"}})

		call := func(ctx context.Context, in *events.Instance) error { // the code under test
			fmt.Println("call", in.ID)
			if in.ID == "near" {
				return errors.New("broken")
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		fmt.Println(users.Do(ctx, "user", call))

		fleet.Kill("user", "near")
		fmt.Println(users.Do(ctx, "user", call))
	})
	// Output:
	// call near
	// call far
	// <nil>
	// call far
	// <nil>
}
