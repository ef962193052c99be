package main

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/spill"
	"github.com/proxima-discovery/proxima/tests/load/cases"
	"github.com/proxima-discovery/proxima/tests/load/sim"
)

const (
	openFor   = 5 * time.Second  // an instance that failed is not called for so long
	rampTakes = 30 * time.Second // until a new instance has all of its weight
	sharing   = 10 * time.Second // between what callers tell each other
)

// chooser picks by [spill.Rule], and in a circle the one of two that has fewer calls in
// flight by weight: what is left of the selector without its measurements, its breakers
// and its tables.
type chooser struct {
	sim     *sim.Sim
	setup   cases.Setup
	callers []caller
}

type caller struct {
	rule    *spill.Rule
	circles []place // by index, nearest first
	nodes   []node  // by instance
	seen    []spill.Seen
	shares  []float64
	order   []uint8 // circles of shares
	calls   int
	told    time.Duration
}

type place struct {
	distance  time.Duration
	instances []int
	seen      spill.Seen
}

type node struct {
	inFlight int
	circle   uint8
	weight   float64
	openTill time.Duration
}

func newChooser(s *sim.Sim, setup cases.Setup) sim.Picker {
	c := &chooser{sim: s, setup: setup, callers: make([]caller, len(s.World.Callers))}
	for i := range c.callers {
		c.callers[i] = c.caller(i)
	}
	return c
}

func (c *chooser) caller(i int) caller {
	k := caller{nodes: make([]node, len(c.sim.World.Servers))}
	byPlace := make(map[int]*place)
	var order []*place
	for id, s := range c.sim.World.Servers {
		p := byPlace[s.Place]
		if p == nil {
			p = &place{distance: c.sim.Distance(i, id)}
			byPlace[s.Place] = p
			order = append(order, p)
		}
		p.instances = append(p.instances, id)
	}
	slices.SortStableFunc(order, func(a, b *place) int { return cmp.Compare(a.distance, b.distance) })
	for n, p := range order {
		// Estimates are not exact.
		p.seen = spill.Seen{Circle: uint8(n), Distance: time.Duration(float64(p.distance) * (1 + 0.05*c.sim.Rand().Float64()))}
		k.circles = append(k.circles, *p)
		for _, id := range p.instances {
			k.nodes[id] = node{circle: uint8(n), weight: max(c.sim.World.Servers[id].Weight, 1e-9)}
			if c.sim.World.Servers[id].Weight == 0 {
				k.nodes[id].weight = 1
			}
		}
	}
	k.rule = spill.New(spill.Options{Price: c.setup.Price, Off: c.setup.Stay}, len(order))
	return k
}

// usable reports whether an instance is listed and has not just failed.
func (c *chooser) usable(k *caller, id int, now time.Duration) bool {
	_, listed := c.sim.Listed(id)
	return listed && now >= k.nodes[id].openTill
}

func (c *chooser) Look(i int, now time.Duration) {
	k := &c.callers[i]
	k.seen, k.order = k.seen[:0], k.order[:0]
	for n := range k.circles {
		p := &k.circles[n]
		oldest, queued, some := time.Duration(math.MaxInt64), false, false
		for _, id := range p.instances {
			if c.usable(k, id, now) {
				since, _ := c.sim.Listed(id)
				some, oldest = true, min(oldest, since)
				queued = queued || c.sim.Queued(id)
			}
		}
		if some {
			s := p.seen
			s.Ramp, s.Queued = min(1, 0.1+0.9*(now-oldest).Seconds()/rampTakes.Seconds()), queued
			k.seen = append(k.seen, s)
			k.order = append(k.order, s.Circle)
		}
	}
	k.shares, _, _ = k.rule.Look(now, k.seen)
	if c.setup.Hints && now-k.told > sharing {
		k.told = now
		for n := range k.circles {
			if d, ok := k.rule.Baseline(uint8(n)); ok {
				for o := range c.callers {
					if o != i {
						c.callers[o].rule.Hint(uint8(n), d, now)
					}
				}
			}
		}
	}
}

func (c *chooser) Pick(call *sim.Call) int {
	k := &c.callers[call.Caller]
	x, from := c.sim.Rand().Float64(), 0
	if len(k.shares) == len(k.order) {
		for i, s := range k.shares {
			if x -= s; x < 0 {
				from = i
				break
			}
		}
	}
	start := uint8(0)
	if from < len(k.order) {
		start = k.order[from]
	}
	// The circle that was drawn, then the others from the nearest on.
	if id := c.choose(k, start, call); id >= 0 {
		return c.begin(k, id)
	}
	for n := range k.circles {
		if id := c.choose(k, uint8(n), call); id >= 0 {
			return c.begin(k, id)
		}
	}
	return -1
}

func (c *chooser) begin(k *caller, id int) int {
	n := &k.nodes[id]
	n.inFlight++
	s := &k.circles[n.circle].seen
	s.Picks++
	s.InFlight++
	return id
}

// choose takes the better of two usable instances of a circle.
func (c *chooser) choose(k *caller, circle uint8, call *sim.Call) int {
	if int(circle) >= len(k.circles) {
		return -1
	}
	ids := k.circles[circle].instances
	best, usable := -1, 0
	first := c.sim.Rand().IntN(len(ids))
	for i := range ids {
		id := ids[(first+i)%len(ids)]
		if id == call.Avoid || !c.usable(k, id, call.Now) {
			continue
		}
		usable++
		if best < 0 || float64(k.nodes[id].inFlight+1)/k.nodes[id].weight < float64(k.nodes[best].inFlight+1)/k.nodes[best].weight {
			best = id
		}
		if usable == 2 {
			break
		}
	}
	return best
}

func (c *chooser) Head(call *sim.Call) {
	k := &c.callers[call.Caller]
	n := &k.nodes[call.Instance]
	s := &k.circles[n.circle].seen
	n.inFlight--
	s.InFlight--
	s.Completions++
	switch call.Outcome {
	case sim.OK:
		if k.calls++; c.setup.Measure == 0 || k.calls%c.setup.Measure == 0 {
			s.Measured++
			s.Busy += call.Took()
		}
	case sim.Rejected:
		s.Rejects++
	case sim.Failed:
		n.openTill = call.Now + openFor
	}
}

func (c *chooser) End(*sim.Call) {}
