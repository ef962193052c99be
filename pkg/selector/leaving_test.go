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
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
	"github.com/proxima-discovery/proxima/tests/load/cases"
	"github.com/proxima-discovery/proxima/tests/load/sim"
)

// The cases of tests/load with real selectors, one for each caller. The rest of them is in
// TestCallsLeaveACircleOnlyWhenTheyGainWithAllSeeds.
func TestCallsLeaveACircleOnlyWhenTheyGain(t *testing.T) {
	leaving(t, []uint64{1}, "6 in flight of 1s without a limit, next 153 ms", "500 in flight of 1s without a limit, next 1.5 ms",
		"200 streams of ten minutes, and 50 calls/s", "slower machines near, next 1.5 ms", "20 callers, 800/s on 500, next 1.5 ms",
		"one of 8 calls is measured", "rejects above 5 waiting, next 1.5 ms", "a dependency makes all 5 times slower, next 1.5 ms",
		"20 callers of slow calls, two tell of quick ones, next 153 ms", "one of two near dies, the other has room", "the zone dies and comes back new", "620/s on 500, never to the next")
}

// leaving runs these cases, all if none is named.
func leaving(t *testing.T, seeds []uint64, names ...string) {
	if raced {
		names = names[len(names)-3:]
	}
	ran := 0
	for _, c := range cases.All() {
		if c.Unsolved != "" || !fits(c.World()) || len(names) > 0 && !slices.Contains(names, c.Name) {
			continue
		}
		ran++
		c.Wants = slices.Clone(c.Wants)
		for i := range c.Wants { // the real selector balances, too, and finds out distances
			switch w := &c.Wants[i]; w.Figure {
			case cases.Mean, cases.P99:
				w.Most *= 1.25
			case cases.Turns, cases.Deviation, cases.Rejected:
				w.Most += 2
			case cases.Away:
				w.Least, w.Most = w.Least-3, w.Most+3
				if w.Most == 3 { // none may leave
					w.Most = 0
				}
			}
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			for _, seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					for _, row := range c.Run(func(s *sim.Sim, setup cases.Setup) sim.Picker { return newCallers(t, s, setup) }, []uint64{seed}, false) {
						for _, failed := range row.Failed {
							t.Errorf("%s: %s", row.Case, failed)
						}
					}
				})
			}
		})
	}
	if len(names) > 0 && ran != len(names) {
		t.Errorf("%d of %d cases ran", ran, len(names))
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
	var shared latency.Bus
	if setup.Hints {
		shared = newBus()
	}
	for i, of := range s.World.Callers {
		o := selector.Options{Location: simPlaces[of.Place], Logger: slog.New(slog.DiscardHandler), Strategy: selector.P2C}
		if setup.Measure > 1 {
			o.Strategy = selector.LeastRequest // it needs no durations
		}
		o.Spill.Off = setup.Stay
		o.Probe.Bus = shared
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
		if of.Start == 0 { // others watch from their first call on
			go func() { _, _ = k.Explain(t.Context(), selector.Request{Service: "user"}) }()
		}
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
