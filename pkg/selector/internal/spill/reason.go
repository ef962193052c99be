package spill

import (
	"fmt"
	"strings"
	"time"
)

// Reason is why calls begin with a circle and not with the one before it, or why they do
// not although that one is overloaded.
type Reason struct {
	From       uint8         // the circle that they leave
	Share      float64       // of the calls that come to it
	Trial      bool          // a few calls leave, to see whether they gain
	Returned   bool          // it has just returned, and ramps up
	Overloaded bool          // there is evidence, or there was and its excess has left
	Slower     float64       // how many times longer its calls take than without load; 0: unknown
	Rejected   float64       // part of its answers that ask for fewer calls
	Queued     bool          // its instances report a queue
	Failed     bool          // calls would not gain, as the last trial showed
	Gain       time.Duration // that a call is expected to have by leaving now, price and margin taken off
}

// explain notes what a look saw.
func (r *Reason) explain(p *pair) {
	c := p.c
	*r = Reason{
		From: r.From, Share: max(c.share, c.ramp), Trial: c.phase == trial, Returned: c.ramp > c.share,
		Overloaded: p.evidence || c.phase == leaving, Rejected: p.rejects, Queued: c.last.Queued,
		Failed: p.evidence && c.phase == home && c.failed > 0, Gain: seconds(p.gain),
	}
	if base := c.base(); base > 0 {
		r.Slower = p.takes / base
	}
}

func seconds(s float64) time.Duration {
	const most = 24 * 3600
	return time.Duration(max(-most, min(most, s)) * float64(time.Second))
}

// String is the reason as a part of a sentence; empty: there is none.
func (r Reason) String() string {
	var s []string
	if r.Returned {
		s = append(s, "its oldest instance is new")
	}
	if r.Overloaded {
		if r.Slower > endAt {
			s = append(s, fmt.Sprintf("calls take %.1f times their unloaded time", r.Slower))
		}
		if r.Rejected >= 0.01 {
			s = append(s, fmt.Sprintf("%.0f %% are rejected", 100*r.Rejected))
		}
		if r.Queued {
			s = append(s, "its instances report a queue")
		}
		if len(s) == 0 {
			s = append(s, "its excess has left")
		}
	}
	switch {
	case r.Failed:
		s = append(s, "calls that left would not gain")
	case r.Overloaded && r.Share > 0 && r.Gain > 0:
		s = append(s, fmt.Sprintf("a call gains %.3g ms by leaving", float64(r.Gain)/float64(time.Millisecond)))
	}
	return strings.Join(s, ", ")
}

// Why tells why calls begin with the circle at a position of the last look. It is the zero
// Reason for the first one, and for one that calls do not leave for.
func (r *Rule) Why(i int) Reason {
	for k := range r.chain {
		if k > 0 && r.chain[k] == i {
			return r.at(k - 1).reason
		}
	}
	return Reason{}
}
