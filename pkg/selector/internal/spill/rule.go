package spill

import (
	"math"
	"slices"
	"time"
)

// Never is the price of a circle that calls must not leave for.
const Never time.Duration = math.MaxInt64

// Options are the options of a [Rule].
type Options struct {
	// Price is what a call must gain at least to leave for a circle, by its index. Missing
	// ones are 0. Between two circles that have a price the difference counts. A circle
	// that is Never left for may still be the first one.
	Price []time.Duration
	// Off: no call leaves for load. A circle that returns ramps up all the same.
	Off bool
}

// Rule decides which share of the calls leaves each circle. It is for one service and one
// place of callers.
type Rule struct {
	opts    Options
	circles []circle // by index
	started bool
	last    time.Duration // time of the last look
	active  time.Duration // time of the last call
	looks   uint64
	chain   []int   // positions of the circles that calls leave for, one after the other
	order   []uint8 // circles of the last look
	shares  []float64
	wanted  []float64
}

// New returns the rule for a service that has so many circles.
func New(o Options, levels int) *Rule {
	levels = max(0, min(levels, math.MaxUint8+1))
	return &Rule{
		opts: o, circles: make([]circle, levels),
		chain: make([]int, 0, levels), order: make([]uint8, 0, levels),
		shares: make([]float64, 0, levels), wanted: make([]float64, 0, levels),
	}
}

// Look takes in what was counted, and returns which share of the picks begins with each
// circle of seen; their sum is 1. Changed reports that the circles are others, or that a
// share differs by more than a hundredth from the last ones, which are returned otherwise.
// Idle reports that there are no calls, and that nothing is left to be done: looks may
// pause until the next call. Look is meant to be called five times a second, and
// overwrites the shares that it returned before.
func (r *Rule) Look(now time.Duration, seen []Seen) (shares []float64, changed, idle bool) {
	r.looks++
	gap := !r.started || now-r.last > gapMost
	dt := max(0, (now - r.last).Seconds())
	if gap {
		dt = 0
		r.started, r.active = true, now
		for i := range r.circles {
			r.circles[i].forget()
		}
	}
	r.last = now
	changed = r.arrange(seen)
	carried := r.begun() > 0
	for i, s := range seen {
		c := &r.circles[s.Circle]
		switch {
		case c.look == r.looks: // twice in the list
			continue
		case gap || now-c.at > gapMost || now < c.at:
			c.begin(s, now)
			c.ramping = carried && i < len(seen)-1
		case dt > 0:
			if c.add(s, now, dt) {
				r.active = now
			}
		default:
			c.last.Distance, c.last.Ramp, c.last.Queued, c.last.Spare = max(0, s.Distance), s.Ramp, s.Queued, s.Spare
		}
		c.look, c.at = r.looks, now
	}
	if dt > 0 {
		r.decide(now, dt)
	}
	idle = (now - r.active).Seconds() > staleAfter
	if idle {
		for i := range r.circles {
			r.circles[i].leave = leave{}
		}
	}
	changed = r.publish(changed)
	return r.shares, changed, idle
}

// at is what the rule remembers of the circle at a place of the chain.
func (r *Rule) at(k int) *circle { return &r.circles[r.order[r.chain[k]]] }

// begun is the calls a second that began, by the last look.
func (r *Rule) begun() (sum float64) {
	for i := range r.circles {
		if c := &r.circles[i]; c.look+1 == r.looks {
			sum += c.begun()
		}
	}
	return sum
}

// arrange notes the order of the circles, and reports whether it is another one.
func (r *Rule) arrange(seen []Seen) (changed bool) {
	for _, s := range seen {
		for len(r.circles) <= int(s.Circle) {
			r.circles = append(r.circles, circle{})
		}
	}
	changed = !slices.EqualFunc(r.order, seen, func(o uint8, s Seen) bool { return o == s.Circle })
	if !changed {
		return false
	}
	r.order, r.chain = r.order[:0], r.chain[:0]
	for i, s := range seen {
		if !slices.Contains(r.order, s.Circle) && (i == 0 || r.price(s.Circle) != Never) {
			r.chain = append(r.chain, i)
		}
		r.order = append(r.order, s.Circle)
	}
	for len(r.shares) < len(seen) {
		r.shares, r.wanted = append(r.shares, 0), append(r.wanted, 0)
	}
	r.shares, r.wanted = r.shares[:len(seen)], r.wanted[:len(seen)]
	return true
}

func (r *Rule) price(circle uint8) time.Duration {
	if int(circle) < len(r.opts.Price) {
		return max(0, r.opts.Price[circle])
	}
	return 0
}

// decide decides what leaves each circle of the chain.
func (r *Rule) decide(now time.Duration, dt float64) {
	come := 0.0
	for k := range r.chain {
		come += r.at(k).begun()
	}
	for k := range r.chain {
		c := r.at(k)
		if k+1 == len(r.chain) {
			c.leave = leave{}
			return
		}
		next := r.at(k + 1)
		if to := r.order[r.chain[k+1]]; c.to != to {
			c.leave = leave{to: to, ramping: c.ramping, reason: Reason{From: r.order[r.chain[k]]}}
		}
		c.rampUp(next)
		p := pair{c: c, next: next, now: now, come: come}
		p.price = (r.price(c.to) - r.price(r.order[r.chain[k]])).Seconds()
		if r.price(r.order[r.chain[k]]) == Never {
			p.price = 0
		}
		if !r.opts.Off {
			p.judge()
			if k > 0 && r.at(k-1).share == 0 && r.at(k-1).ramp == 0 && c.phase != home {
				c.enter(home, now) // no calls come here
			}
			p.move(dt)
		}
		c.reason.explain(&p)
		come -= c.begun()
	}
}

// publish divides the calls among the circles. The shares stay if they differ little, so
// that the caller does not follow each step, unless they are for other circles.
func (r *Rule) publish(others bool) (changed bool) {
	changed = others
	clear(r.wanted)
	left := 1.0
	for k, i := range r.chain {
		stays := left
		if k+1 < len(r.chain) {
			c := r.at(k)
			stays = left * (1 - max(c.share, c.ramp))
		}
		r.wanted[i] = stays
		left -= stays
	}
	for i, w := range r.wanted {
		if math.Abs(w-r.shares[i]) > 0.01 || (w == 0) != (r.shares[i] == 0) {
			changed = true
		}
	}
	if changed {
		copy(r.shares, r.wanted)
	}
	return changed
}

// Baseline is how long a call to a circle takes without load and without the way, if this
// caller has measured it often enough to tell others.
func (r *Rule) Baseline(circle uint8) (time.Duration, bool) {
	if int(circle) >= len(r.circles) || r.circles[circle].samples < 2*fewEvents {
		return 0, false
	}
	return time.Duration(r.circles[circle].ownBase * float64(time.Second)), true
}

// Base is how long a call to a circle takes without load and without the way, by what this
// caller and others have measured; 0: not known.
func (r *Rule) Base(circle uint8) time.Duration {
	if int(circle) >= len(r.circles) {
		return 0
	}
	return time.Duration(r.circles[circle].base() * float64(time.Second))
}

// Hint takes in what another caller of the same place has measured as the baseline of a
// circle. The least one counts. It ages like one's own, and is forgotten after half an
// hour without another one.
func (r *Rule) Hint(circle uint8, d, now time.Duration) {
	if int(circle) >= len(r.circles) || d < leastHint || d > mostHint {
		return
	}
	c := &r.circles[circle]
	if h := d.Seconds(); c.hint == 0 || h <= c.hint {
		c.hint, c.hinted = h, now
	}
}
