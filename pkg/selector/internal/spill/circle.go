package spill

import (
	"math"
	"time"
)

// Seen is what a caller has counted of one circle. Counters only grow; a counter that
// falls, because instances left, counts as unchanged.
type Seen struct {
	Circle      uint8         // its index; the slice is in the order in which circles are tried
	Picks       uint64        // calls begun
	Completions uint64        // calls answered, whatever the answer
	Rejects     uint64        // of those, answers that ask for fewer calls (429, 503 with Retry-After)
	Measured    uint64        // successes whose duration is known; a part of them is enough
	Busy        time.Duration // the sum of those durations, to the head of the answer
	InFlight    int           // calls without an answer's head
	Distance    time.Duration // estimate of the round trip
	Queued      bool          // fresh load reports of its instances say that calls wait
	Spare       bool          // some of its instances reject no calls: balancing inside the circle sends them there
	Ramp        float64       // 1: all of its instances have all of their weight; 0.1: its oldest instance is new; 0 counts as 1
}

// circle is what a rule remembers of one circle. Durations are in seconds.
type circle struct {
	last Seen
	look uint64        // the look that saw it last
	at   time.Duration // its time

	// Sums that decay. The quotient of two is an average.
	span, picks, done, good, rejects, queue float64
	busy, measured                          float64
	longBusy, longMeasured                  float64

	answered time.Duration // of the last answer
	waiting  time.Duration // since when calls are in flight without any answer

	ownBase float64 // the least average of the unloaded duration; 0: unknown
	samples float64 // it is based on, ever
	hint    float64 // the least that others told; 0: none
	hinted  time.Duration
	peak    float64   // calls a second that it gets done under load, or did at most
	short   float64   // calls in flight lately
	seen    trialSums // counted by this look

	leave
}

// forget forgets all but the unloaded durations.
func (c *circle) forget() {
	*c = circle{last: c.last, ownBase: c.ownBase, samples: c.samples, hint: c.hint, hinted: c.hinted}
}

// begin begins to count, after the circle was away.
func (c *circle) begin(s Seen, now time.Duration) {
	c.forget()
	s.InFlight, s.Distance = max(0, s.InFlight), max(0, s.Distance)
	c.last, c.answered, c.waiting = s, now, now
}

// grown is by how much a counter has grown.
func grown(now, before uint64) float64 {
	if now <= before {
		return 0
	}
	return float64(now - before)
}

// keep is the part of a sum that is kept for dt: averages are over a time, or over
// a number of events if that takes longer, but not over more than a longest time.
func keep(dt, over, longest, events, fewest float64) float64 {
	return math.Exp(-dt / min(longest, max(over, over*fewest/max(events, 1e-9))))
}

// add takes in what was counted since the last look. It reports whether there were any
// calls.
func (c *circle) add(s Seen, now time.Duration, dt float64) (active bool) {
	picks, done := grown(s.Picks, c.last.Picks), grown(s.Completions, c.last.Completions)
	rejects := min(done, grown(s.Rejects, c.last.Rejects))
	measured := grown(s.Measured, c.last.Measured)
	busy := 0.0
	if s.Busy > c.last.Busy && measured > 0 {
		busy = (s.Busy - max(0, c.last.Busy)).Seconds()
	}
	if busy == 0 {
		measured = 0
	}
	s.InFlight, s.Distance = max(0, s.InFlight), max(0, s.Distance)
	c.last = s

	k := keep(dt, rateOver, staleAfter, max(c.picks, c.done), fewEvents)
	c.span = c.span*k + dt
	c.picks = c.picks*k + picks
	c.done = c.done*k + done
	c.good = c.good*k + done - rejects
	c.rejects = c.rejects*k + rejects
	c.queue = c.queue*k + float64(s.InFlight)*dt
	k = keep(dt, rateOver, staleAfter, c.measured, fewEvents)
	if c.phase == leaving && measured > 0 && c.inside(c.busy/max(c.measured, 1e-9)) > 3*c.base() && busy/measured < c.busy/c.measured/2 {
		k *= math.Pow(0.5, measured) // a long queue has gone
	}
	c.busy, c.measured = c.busy*k+busy, c.measured*k+measured
	k = keep(dt, baseOver, baseStale, c.longMeasured, baseEvents)
	c.longBusy, c.longMeasured = c.longBusy*k+busy, c.longMeasured*k+measured
	c.samples = min(c.samples+measured, 1e9)

	c.seen = trialSums{busy, measured, done, rejects}

	if done > 0 {
		c.answered = now
	}
	if done > 0 || s.InFlight == 0 {
		c.waiting = now
	}
	goods := c.good / c.span
	if goods < c.peak || c.pressed {
		if c.pressed || c.phase == home {
			c.peak = goods + (c.peak-goods)*math.Exp(-dt/max(peakOver, c.span))
		}
	} else {
		c.peak = goods
	}
	c.short += (float64(s.InFlight) - c.short) * (1 - math.Exp(-dt/shortOver))
	c.learnBase(dt, now)
	return picks > 0 || done > 0 || s.InFlight > 0
}

// learnBase follows the unloaded duration.
func (c *circle) learnBase(dt float64, now time.Duration) {
	if c.hint > 0 {
		c.hint *= 1 + baseRises*dt
		if (now - c.hinted).Seconds() > hintLasts {
			c.hint = 0
		}
	}
	if c.longMeasured < 8 {
		return
	}
	w := c.inside(c.longBusy / c.longMeasured)
	switch {
	case c.ownBase == 0, c.samples < 2*fewEvents:
		c.ownBase = w
	case w < c.ownBase:
		c.ownBase += (w - c.ownBase) * (1 - math.Exp(-dt/baseFalls))
	case c.phase == home:
		c.ownBase = min(w, c.ownBase*(1+baseRises*dt))
	}
}

// inside is the part of a duration that is not the way.
func (c *circle) inside(took float64) float64 { return max(1e-6, took-c.last.Distance.Seconds()) }

// base is the unloaded duration, without the way; 0: unknown.
func (c *circle) base() float64 {
	if c.hint > 0 && (c.ownBase == 0 || c.hint < c.ownBase) {
		return c.hint
	}
	return c.ownBase
}

// begun is calls a second.
func (c *circle) begun() float64 { return c.picks / max(c.span, 1e-9) }

// rejected is the part of the answers that ask for fewer calls, 0 while some instances of
// the circle reject none.
func (c *circle) rejected() float64 {
	if c.done < fewEvents/2 || c.last.Spare {
		return 0
	}
	return c.rejects / c.done
}

// takes is how long a call takes now, without the way; 0: unknown. While more calls begin
// than end, those in flight show it sooner than those that have ended (Little's law), and
// likewise while more end than begin.
func (c *circle) takes(now time.Duration) float64 {
	w := 0.0
	base := c.base()
	if c.measured >= 3 && (now-c.answered).Seconds() < 2+2*c.span/max(c.done, 1) {
		w = c.inside(c.busy / c.measured)
	}
	if base == 0 {
		return w
	}
	if w == 0 && c.done >= fewEvents/2 && c.queue >= 2 {
		w = c.inside(c.queue / c.done) // too few are measured
	}
	if c.picks >= 20*c.span && c.done >= fewEvents/2 && base < 0.3 {
		little := c.inside(c.queue / c.done)
		if c.done < 0.9*c.picks {
			w = max(w, little)
		} else if c.done > 1.1*c.picks {
			w = min(w, little)
		}
	}
	if c.done >= fewEvents/2 {
		w = min(w, max(base, (c.short+2)*c.span/c.done)) // a queue that has gone
	}
	if silent := (now - c.waiting).Seconds(); c.picks >= fewEvents && silent > max(1, 4*base) {
		w = max(w, silent) // no call has been answered for so long
	}
	return w
}

// slowness is 1 for an unloaded circle, and 2 for one in which calls take twice as long as
// without load, and at least leastExcess longer.
func slowness(takes, base float64) float64 {
	if takes <= 0 || base <= 0 {
		return 1
	}
	return max(1, 1+(takes-base)/max(base, leastExcess))
}
