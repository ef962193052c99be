package selector_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
	"github.com/proxima-discovery/proxima/tests/load/cases"
	"github.com/proxima-discovery/proxima/tests/load/sim"
)

// The cases of tests/load with real selectors, one for each caller.
func TestCallsLeaveACircleOnlyWhenTheyGain(t *testing.T) {
	for _, c := range cases.All() {
		if c.Unsolved != "" || c.Setup.Hints || !fits(c.World()) {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, row := range c.Run(func(s *sim.Sim, setup cases.Setup) sim.Picker { return newCallers(t, s, setup) }, []uint64{1}, false) {
					t.Logf("%s: %v", row.Case, row.Figures)
					for _, failed := range row.Failed {
						t.Error(failed)
					}
				}
			})
		})
	}
}

// fits reports whether the callers of this test see all that matters in a world. They
// have no connection on which load reports come.
func fits(w sim.World) bool {
	return !slices.ContainsFunc(w.Servers, func(s sim.Server) bool { return s.Beats })
}

// callers are the selectors of a simulation.
type callers struct {
	t      *testing.T
	sim    *sim.Sim
	all    []*caller
	listed string
}

type caller struct {
	*selector.Selector
	*fixed
	distances
}

func address(id int) string { return fmt.Sprint(id, ".example:80") }

var simPlaces = []topology.Location{home, nextDoor, farAway}

func newCallers(t *testing.T, s *sim.Sim, setup cases.Setup) *callers {
	c := &callers{t: t, sim: s}
	for i, of := range s.World.Callers {
		o := selector.Options{Location: simPlaces[of.Place], Logger: slog.New(slog.DiscardHandler), Strategy: selector.P2C}
		if setup.Measure > 1 {
			o.Strategy = selector.LeastRequest // it needs no durations
		}
		o.Spill.Off = setup.Stay
		if len(setup.Price) > 1 {
			if setup.Price[1] == math.MaxInt64 {
				o.Spill.Within = topology.Zone
			} else {
				o.Spill.Price = setup.Price[1]
			}
		}
		k := &caller{fixed: &fixed{make(chan events.Snapshot, 1)}}
		o.Latency.Dial = k.dial
		for id := range s.World.Servers {
			k.set(address(id), s.Distance(i, id))
		}
		o.Source = k.fixed
		var err error
		if k.Selector, err = selector.New(t.Context(), nil, o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = k.Close() })
		c.all = append(c.all, k)
		go func() { _, _ = k.Explain(t.Context(), selector.Request{Service: "user"}) }() // the source is watched from then on
	}
	c.list()
	time.Sleep(time.Second)
	synctest.Wait()
	time.Sleep(5 * time.Second) // all are measured
	base := time.Now()
	s.World.Sleep = func(until time.Duration) { time.Sleep(time.Until(base.Add(until))) }
	return c
}

// list gives all callers the list of the instances, if it is another one.
func (c *callers) list() {
	var entries []events.Entry
	var all []string
	for id, s := range c.sim.World.Servers {
		since, ok := c.sim.Listed(id)
		if !ok {
			continue
		}
		e := instance(fmt.Sprint(id), simPlaces[s.Place], incarnation(since.String()), weight(int(100*max(1, s.Weight))), endpoint(events.TCP, address(id)))
		entries = append(entries, e)
		all = append(all, e.ID+"@"+e.Incarnation)
	}
	if listed := strings.Join(all, " "); listed != c.listed || len(c.listed) == 0 {
		c.listed = listed
		for _, k := range c.all {
			k.lists <- events.Snapshot{Service: "user", Entries: sortEntries(entries)}
		}
	}
}

func (c *callers) Look(i int, _ time.Duration) {
	if i == 0 {
		c.list()
	}
}

func (c *callers) Pick(call *sim.Call) int {
	ask := selector.Request{Service: "user"}
	if call.Avoid >= 0 {
		ask.Avoid = []string{fmt.Sprint(call.Avoid)}
	}
	p, err := c.all[call.Caller].PickFor(c.t.Context(), ask)
	if err != nil {
		return -1
	}
	call.Handle = &p
	var id int
	_, _ = fmt.Sscan(p.ID, &id)
	return id
}

func (c *callers) Head(call *sim.Call) {
	p := call.Handle.(*selector.Pick)
	switch call.Outcome {
	case sim.OK:
		p.Answered(call.Took())
	case sim.Rejected:
		p.DoneAfter(selector.Overloaded(errors.New("status 429"), 0), call.Took())
	default:
		p.DoneAfter(errRefused, call.Took())
	}
}

func (c *callers) End(call *sim.Call) { call.Handle.(*selector.Pick).Done(nil) }
