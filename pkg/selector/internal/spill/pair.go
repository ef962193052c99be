package spill

import (
	"math"
	"time"
)

const (
	leastExcess  = 0.002 // s; what calls take longer by less is no overload
	startAt      = 2.0   // slowness that is evidence of overload
	startRejects = 0.05  // so is this part of the answers
	endAt        = 1.3   // slowness of a circle that is not overloaded
	aim          = 1.4   // slowness of a circle whose excess has left
	alike        = 1.25  // a circle that is slower by less is not worse
	rejectWeight = 60    // a circle that rejects 1 % counts as slower by 0.6
	rejectCost   = 1.0   // s; to be rejected is as bad as to take longer by that
	leastMargin  = 0.001 // s
	margin       = 0.1   // of the duration in the next circle
	mostShare    = 0.98  // leaves at most, so that the circle is still known

	looksFirst = 2   // looks in a row with evidence before a trial
	trialRate  = 4.0 // calls a second that leave for a trial
	trialPart  = 0.5 // of the calls leave for it at most
	trialCalls = 8.0 // measured calls that decide it
	trialPrior = 1.0 // calls that are taken to be rejected as often as here, before it
	trialFew   = 5.0 // that decide it after trialPatience
	trialClear = 3.0 // that decide it if the circle is so many times slower

	drain     = 0.15 // of what the circle gets done: it is given less by that, to end its queue
	drainAll  = 0.7  // slowness, as a logarithm to the aim, from which on that is all of it
	drainMost = 0.5  // that it is given less at most, for a long queue
	grow      = 0.15 // by which the limit grows a second, times that logarithm
	leastGrow = 0.25 // of the calls that come: a lower limit grows as if it were that
	growMost  = 4.0  // times that more when the circle has been fast for long
	comeHome  = 0.2  // by which it grows a second at most if calls do not gain any more
	upStep    = 0.5  // of the calls leave more at most after a second
	downStep  = 0.25 // of the calls leave less at most after a second

	leastHint = 10 * time.Microsecond
	mostHint  = time.Minute
)

type phase uint8

const (
	home    phase = iota // nothing leaves
	trial                // a few calls leave, to see whether they gain
	leaving              // what is above a limit leaves
)

// leave is how calls leave a circle.
type leave struct {
	to      uint8 // the next circle
	phase   phase
	since   time.Duration // of the phase; when leaving: the last time that anything left
	share   float64       // of the calls that come here, leaves for load
	limit   float64       // calls a second that stay
	pressed bool          // when leaving: slower than it is meant to be
	come    float64       // when leaving: average of the calls a second that come
	goal    float64       // when leaving: slowness that it is meant to have
	eased   time.Duration // when leaving: last time that it was pressed
	worst   float64       // duration that the calls that left would have had, or more
	looks   int           // in a row with evidence
	tried   trialSums
	retryAt time.Duration
	backoff float64
	failed  float64       // slowness when the last trial failed; 0: none did
	calm    time.Duration // time of the last evidence

	ramping bool    // it has returned
	ramp    float64 // share of the calls that leave for that

	reason Reason
}

// trialSums are what was counted of the next circle since a trial began.
type trialSums struct{ busy, measured, done, rejects float64 }

func (t *trialSums) add(s trialSums) {
	t.busy += s.busy
	t.measured += s.measured
	t.done += s.done
	t.rejects += s.rejects
}

// rampUp lets the calls come to a circle that has returned as its oldest instance ramps
// up, seen from the next circle's.
func (c *circle) rampUp(next *circle) {
	c.ramp = 0
	if !c.ramping {
		return
	}
	c.ramp = 1 - min(1, ramp(c.last.Ramp)/ramp(next.last.Ramp))
	c.ramping = c.ramp > 0
}

// ramp is a ramp as it may be given.
func ramp(x float64) float64 {
	if x > 0 && x < 1 {
		return max(x, 0.01)
	}
	return 1
}

// pair is a circle and the next one as a look sees them. Durations are in seconds.
type pair struct {
	c, next *circle
	now     time.Duration
	come    float64 // calls a second that come to the circle, or would
	price   float64

	takes, nextTakes float64 // without the way; 0: unknown
	base, aim        float64
	slow, nextSlow   float64
	rejects          float64 // part of the answers
	evidence, calm   bool
	here, there      float64 // expected durations, with the way
	gain             float64
	unsure           bool // no call has gone there lately
}

// judge compares the two circles.
func (p *pair) judge() {
	c, next := p.c, p.next
	base := c.base()
	p.takes, p.nextTakes = c.takes(p.now), next.takes(p.now)
	p.rejects = c.rejected()
	nextRejects := next.rejected()
	if c.phase == trial {
		c.tried.add(next.seen)
		p.nextTakes, nextRejects = 0, 0
		if t := c.tried; t.measured > 0 {
			p.nextTakes = next.inside(t.busy / t.measured)
		}
		if t := c.tried; t.done >= 3 {
			// A few calls show little of rejects: without more they are as here.
			nextRejects = (t.rejects + trialPrior*p.rejects) / (t.done + trialPrior)
		}
	}
	// The base of the next circle may be unknown, or be measured under load.
	if c.last.Queued && p.nextTakes > 0 {
		// It says that calls wait, and the next one shows what they take without that.
		base = min(base, p.nextTakes)
	}
	nextBase := base
	if b := next.base(); b > 0 && (base == 0 || b < base) {
		nextBase = b
	}
	p.base = base
	p.slow = max(slowness(p.takes, base), 1+rejectWeight*p.rejects)
	p.nextSlow = max(slowness(p.nextTakes, nextBase), 1+rejectWeight*nextRejects)
	p.evidence = slowness(p.takes, base) > startAt*(1+chance(c.measured)) || p.rejects > startRejects || c.last.Queued && p.takes > 0
	p.calm = p.slow < endAt && !c.last.Queued

	p.here = c.last.Distance.Seconds() + p.takes + rejectCost*p.rejects
	p.unsure = p.nextTakes == 0
	at := p.nextTakes
	if p.unsure {
		at = nextBase // at its best
		if b := next.base(); b > 0 {
			at = b
		}
		if c.last.Queued {
			// What is taken for unloaded may have had the queue in it.
			at = min(at, p.takes/2)
		}
	}
	p.there = next.last.Distance.Seconds() + at + rejectCost*nextRejects
	p.gain = p.here - p.there - max(leastMargin, margin*p.there) - p.price
}

// better reports that the next circle is, not only nearer to its own best.
func (p *pair) better() bool {
	return p.gain > 0 && p.slow > alike*p.nextSlow*(1+chance(p.c.tried.measured))
}

// chance is by which part the mean of so many calls differs from what it should be, if
// their durations are spread widely.
func chance(calls float64) float64 { return 1 / math.Sqrt(max(calls, 1)) }

// move decides what leaves.
func (p *pair) move(dt float64) {
	c := p.c
	if p.evidence {
		c.looks++
		c.calm = p.now
	} else {
		c.looks = 0
	}
	switch c.phase {
	case home:
		p.atHome()
	case trial:
		p.try()
	case leaving:
		p.limit(dt)
	}
}

func (c *circle) enter(ph phase, now time.Duration) {
	c.phase, c.since, c.pressed = ph, now, false
	if ph == home {
		c.share = 0
	}
}

// atHome begins a trial.
func (p *pair) atHome() {
	c := p.c
	if c.failed > 0 && (p.now-c.calm).Seconds() > retryCalm {
		c.failed, c.backoff = 0, 0
	}
	worse := c.failed > 0 && p.slow > 1.5*c.failed && (p.now-c.since).Seconds() > retryAgain
	if c.looks < looksFirst || p.gain <= 0 || p.now < c.retryAt && !worse {
		return
	}
	c.enter(trial, p.now)
	c.tried = trialSums{}
	c.share = p.trialShare()
}

// trialShare is some four calls a second: a trial takes few calls, not a share of them.
func (p *pair) trialShare() float64 { return max(0.005, min(trialPart, trialRate/max(p.come, 1e-9))) }

// try ends a trial.
func (p *pair) try() {
	c := p.c
	t := &c.tried
	lasts := (p.now - c.since).Seconds()
	c.share = p.trialShare()
	known := t.measured >= trialCalls || t.measured >= trialFew && lasts > trialPatience || t.measured >= trialClear && p.slow > 3*p.nextSlow
	switch {
	case p.calm && lasts > 1:
		c.enter(home, p.now) // it has passed
	case known && p.better():
		c.enter(leaving, p.now)
		c.failed, c.backoff = 0, 0
		c.limit = min(p.come, c.peak)
		c.worst, c.goal, c.eased, c.come = p.here, aim, p.now, p.come
	case known, t.done >= trialFew && t.rejects > t.done/2, lasts > trialMost:
		c.enter(home, p.now)
		c.failed = p.slow
		c.backoff = max(retryFirst, min(2*c.backoff, retryMost))
		c.retryAt = p.now + time.Duration(c.backoff*float64(time.Second))
	}
}

// limit follows what the circle gets done. It may be as slow as it is meant to be without
// its excess, or as the next one is: equal distress is shared.
func (p *pair) limit(dt float64) {
	c := p.c
	c.worst = max(c.worst, p.here)
	nextSlow := p.nextSlow
	if p.next.phase == leaving {
		nextSlow = min(nextSlow, p.next.goal) // what is more leaves it
	}
	c.goal += (max(aim, alike*nextSlow) - c.goal) * (1 - math.Exp(-dt/goalOver))
	goal := c.goal
	p.aim = p.base + (goal-1)*max(p.base, leastExcess)
	x := math.Log(p.slow / goal)
	c.pressed = x > 0
	less := 0.0
	if x > 0 {
		c.eased = p.now
		less = max(drain*min(1, x/drainAll), min(drainMost, (p.takes-p.aim)/drainIn))
		less *= 1.25 - 0.5*c.share
		c.limit = min(c.limit, c.peak)
	} else {
		more := grow * -x * (1 + min(growMost, (p.now-c.eased).Seconds()/max(growIn, 4*c.span))*min(1, rateOver/c.span))
		if nextSlow > aim && p.slow < nextSlow {
			more = max(more, comeHome*min(1, math.Log(nextSlow/p.slow)/drainAll))
		}
		if there := p.there + max(leastMargin, margin*p.there) + p.price; !p.unsure && there > c.worst {
			more = max(more, comeHome*min(1, there/c.worst-1))
		}
		c.limit = min(c.limit+max(c.limit, leastGrow*p.come)*more*dt, 2*p.come)
	}
	// The average of a quotient is not the quotient of averages: few calls a second make
	// a difference.
	c.come += (p.come - c.come) * (1 - math.Exp(-dt/c.span))
	p.come = c.come
	c.limit = max(c.limit, (1-mostShare)*p.come)
	want := 1 - c.limit*(1-less)/max(p.come, 1e-9)
	c.share = max(0, min(mostShare, want, c.share+upStep*dt), c.share-downStep*dt)
	if c.share > 0 {
		c.since = p.now
	}
	if c.share < 0.005 && c.limit > 1.02*p.come || p.come == 0 {
		c.share = 0
		if p.calm && (p.now-c.since).Seconds() > settleFor || c.limit > 1.5*p.come {
			c.enter(home, p.now)
		}
	}
}
