package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	startWithin = 10 * time.Second // in which all callers start
	pickEvery   = time.Second
	tick        = 10 * time.Millisecond // callers whose turn is in one tick have it together
)

// world has the nodes of a file, with instances and callers on them.
type world struct {
	config
	data   dataset
	random *rand.Rand
	log    *slog.Logger
	source *source
	bus    *bus
	zone   []string // by node

	names     []string // of services
	instances []*instance
	byAddress map[string]*instance
	byID      map[string]*instance
	byPing    map[string]*instance
	callers   []*caller

	now       atomic.Pointer[matrix] // the round trips of this slice of time
	gate      atomic.Bool            // dials do not answer any more
	dials     atomic.Int64
	exchanges atomic.Int64

	result result
}

// instance is on a node, and counts the dials it receives.
type instance struct {
	node    int
	record  *events.Instance
	locator *latency.Locator
	dials   atomic.Int64
}

// newWorld places services, instances and callers on the nodes. The seed
// decides where.
func newWorld(c config, d dataset, seed uint64) *world {
	w := &world{
		config: c, data: d, random: rand.New(rand.NewPCG(seed, 0)), log: slog.New(slog.DiscardHandler),
		source: newSource(), bus: newBus(),
		byAddress: make(map[string]*instance), byID: make(map[string]*instance), byPing: make(map[string]*instance),
		result: result{sources: make(map[string]int)},
	}
	w.now.Store(d.slices[0])
	w.zone = zones(d.slices[0], c.zones)
	for i := range c.allServices() {
		w.addService("s" + strconv.Itoa(i))
	}
	for node := range d.names {
		services := make([]string, c.services)
		for i, k := range w.random.Perm(len(w.names))[:c.services] {
			services[i] = w.names[k]
		}
		for range c.callersPerNode {
			begin := time.Duration(w.random.Int64N(int64(startWithin/tick))) * tick
			w.callers = append(w.callers, &caller{w: w, node: node, number: len(w.callers), begin: begin, services: services, last: make([]string, len(services))})
		}
	}
	return w
}

// zones names the zone of each node.
func zones(m *matrix, n int) []string {
	names := make([]string, m.n)
	if n == 0 {
		for i := range names {
			names[i] = "n" + strconv.Itoa(i)
		}
		return names
	}
	for i, z := range cluster(m, n) {
		names[i] = "z" + strconv.Itoa(z)
	}
	return names
}

// allServices is how many services there are when each caller calls so many.
func (c *config) allServices() int {
	if c.services == 1 {
		return 1
	}
	return 4 * c.services
}

func (w *world) addService(name string) {
	w.names = append(w.names, name)
	for i, node := range w.random.Perm(len(w.data.names))[:w.candidates] {
		id := fmt.Sprintf("%s-%d", name, i)
		n := len(w.instances)
		in := &instance{node: node, locator: latency.NewLocator(), record: &events.Instance{
			ID: id, Service: name, Incarnation: "1", Status: events.Up,
			Endpoints: map[string]string{events.HTTP: fmt.Sprintf("10.%d.%d.%d:80", n>>16&255, n>>8&255, n&255)},
			Location:  w.location(node, "i"+strconv.Itoa(n)),
			Weight:    events.DefaultWeight, TTL: events.DefaultTTL,
		}}
		w.instances = append(w.instances, in)
		w.byAddress[in.record.Endpoints[events.HTTP]] = in
		w.byID[id] = in
		w.byPing[in.record.Key().Ping()] = in
		w.source.put(in.record)
	}
}

// location is what a process on a node knows about where it is.
func (w *world) location(node int, host string) topology.Location {
	if !w.labels {
		return topology.Location{Host: host}
	}
	return topology.Location{Region: w.zone[node], Zone: w.zone[node], Host: host}
}

// run lives through all slices of time: the first lasts for the minutes of the
// configuration, each of the others for those of a slice, and at the end of
// each all picks are judged. It is to be called in a bubble of virtual time.
func (w *world) run(ctx context.Context) error {
	defer w.close()
	start, last := time.Now(), len(w.data.slices)-1
	total := w.warmup + time.Duration(last)*w.sliceTime
	turns := make([][]*caller, pickEvery/tick)
	for _, c := range w.callers {
		turn := c.begin % pickEvery / tick
		turns[turn] = append(turns[turn], c)
	}
	slice, end := 0, w.warmup
	var before int64 // dials until the last minute
	for now := time.Duration(0); ; now += tick {
		time.Sleep(now - time.Since(start))
		if now >= total-time.Minute && now-tick < total-time.Minute {
			before = w.dials.Load()
		}
		for ; now >= end && slice <= last; end += w.sliceTime {
			if err := w.judge(ctx, slice); err != nil {
				return err
			}
			if slice++; slice <= last {
				w.now.Store(w.data.slices[slice])
			}
		}
		if now >= total {
			break
		}
		if now%time.Second == 0 {
			w.locate()
		}
		for _, c := range turns[now%pickEvery/tick] {
			if err := c.live(ctx, now, now >= total/2); err != nil {
				return err
			}
		}
	}
	w.tell(total, before)
	w.gate.Store(true)
	return w.firstPicks(ctx)
}

// locate writes the records of instances that have found where they are.
func (w *world) locate() {
	if !w.coordinates {
		return
	}
	for _, in := range w.instances {
		if c, ok := in.locator.Coordinate(); ok && (in.record.Coordinate == nil || *in.record.Coordinate != c) {
			record := *in.record
			record.Coordinate = &c
			in.record = &record
			w.source.put(in.record)
		}
	}
}

// tell notes what happened in the whole run.
func (w *world) tell(total time.Duration, before int64) {
	r, callers := &w.result, float64(len(w.callers))
	all := w.dials.Load()
	r.probes = float64(all) / callers / total.Minutes()
	r.probesLast = float64(all-before) / callers / min(total, time.Minute).Minutes()
	changes := 0
	for _, c := range w.callers {
		changes += c.changes
	}
	r.changes = float64(changes) / callers / float64(w.services) / (total / 2).Minutes()
	for _, in := range w.instances {
		received := float64(in.dials.Load()) / total.Minutes()
		r.received += received / float64(len(w.instances))
		r.receivedMost = max(r.receivedMost, received)
	}
	r.callers, r.instances = len(w.callers), len(w.instances)
	messages, bytes := w.bus.published()
	r.messages = float64(messages) / callers / total.Minutes()
	r.exchanges = float64(w.exchanges.Load()) / callers / total.Minutes()
	r.messageBytes = float64(bytes) / float64(max(messages, 1))
}

func (w *world) close() {
	for _, c := range w.callers {
		c.close()
	}
	w.bus.wait()
}
