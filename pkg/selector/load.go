package selector

import (
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	tendEvery = 200 * time.Millisecond
	// follow is how much of the difference a load takes in with each look, so
	// that it is an average over about a second.
	follow = 0.18
	// lowOfHigh is the low mark that goes with a high one.
	lowOfHigh = 0.4
	// idle is a load that is none.
	idle = 0.005
)

// tend looks after what changes with time alone, until the selector is closed:
// loads, new instances, circles that are about to change places.
func (s *Selector) tend() {
	ticker := time.NewTicker(tendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.run.Done():
			return
		case <-ticker.C:
		}
		now := s.now()
		for _, svc := range *s.services.Load() {
			svc.tend(now)
		}
	}
}

func (svc *service) tend(now time.Duration) {
	if svc.due.Load() <= int64(now) {
		svc.rebuildSoon()
	}
	if !svc.spills || !svc.active.Swap(false) && !svc.loaded.Load() {
		return
	}
	svc.mu.Lock()
	defer svc.mu.Unlock()
	if svc.closed || !svc.known {
		return
	}
	loaded := svc.home.weigh()
	for i := range svc.homes {
		if v := svc.homes[i].Load(); v != nil {
			loaded = v.weigh() || loaded
		}
	}
	svc.loaded.Store(loaded)
}

// dueLocked asks for new tables at a time, unless they come before.
func (svc *service) dueLocked(at time.Duration) {
	if int64(at) < svc.due.Load() {
		svc.due.Store(int64(at))
	}
}

// weigh takes in the loads of the circles, adds the next when the last that
// picks begin with has more than it should, and leaves it alone again when the
// one before has room enough. It reports whether there is any load. The service
// is locked.
func (v *view) weigh() (loaded bool) {
	t := v.table.Load()
	if t == nil {
		return false
	}
	old := slices.Clone(v.loads)
	clear(v.loads)
	for _, c := range t.stages {
		load := old[c.index] + follow*(c.load()-old[c.index])
		if load < idle {
			load = 0
		}
		v.loads[c.index] = load
		loaded = loaded || load > 0
	}
	before := v.reach
	v.reach = max(0, min(v.reach, len(t.stages)-1))
	o := &v.svc.sel.opts
	switch {
	case v.reach+1 < len(t.stages) && v.loads[t.stages[v.reach].index] > o.LoadHigh:
		v.reach++
	case v.reach > 0 && v.loads[t.stages[v.reach-1].index] < o.LoadLow:
		v.reach--
	}
	if v.reach > 0 || before > 0 {
		if s := v.divide(t); !s.like(t.spill) {
			next := *t
			next.spill = s
			v.table.Store(&next)
		}
	}
	return loaded || v.reach > 0
}

// load is the calls in flight per instance of the near set, by weight.
func (c *circle) load() float64 {
	sum := uint64(0)
	for _, n := range c.near {
		sum += n.inFlight()
	}
	return float64(sum) * events.DefaultWeight / float64(max(1, c.weight))
}

// overflow is the part of what a circle should take that goes on to the next,
// once that has been added: what is above the high mark. A strategy that weighs
// up asks in time whether to go, so it gets to ask from the low mark on. Neither
// brings the load below its mark, so a circle that was added does not make
// itself superfluous.
func (v *view) overflow(circle uint8) float64 {
	mark := v.svc.sel.opts.LoadHigh
	if v.kind.weighsUp() {
		mark = v.svc.sel.opts.LoadLow
	}
	return max(0, 1-mark/max(mark, v.loads[circle]))
}
