package latency

import (
	"math"
	"slices"
	"time"
)

// total is the budget of all groups together: tokens for probes, of which so many come in
// a second, and the most that one group gets of them.
type total struct {
	rate, burst float64 // a rate of 0 is no bound
	tokens      float64
	filledAt    time.Duration
	limit       float64 // of one group, in probes a second; 0: all get what they want
}

// plannedShare is the part of the total budget that slots may take. The rest is for first
// probes and confirmations.
const plannedShare = 0.9

func newTotal(o *Options) total {
	t := total{rate: max(o.TotalBudget/60, 0), burst: max(o.TotalBudget/12, 1)}
	t.tokens = t.burst
	return t
}

// wait is the time until there is a token.
func (t *total) wait(now time.Duration) time.Duration {
	if t.rate <= 0 {
		return 0
	}
	t.tokens = min(t.tokens+t.rate*(now-t.filledAt).Seconds(), t.burst)
	t.filledAt = now
	if t.tokens >= 1 {
		return 0
	}
	return time.Duration((1-t.tokens)/t.rate*float64(time.Second)) + time.Millisecond
}

// take takes a token.
func (t *total) take() { t.tokens-- }

// divideLocked divides the total budget: a group that wants less than the others gets
// that, and those that want more get equal parts of the rest.
func (p *Prober) divideLocked() {
	if p.total.rate <= 0 {
		return
	}
	demands := make([]float64, 0, len(p.groups))
	for g := range p.groups {
		if g.pace != asleep && g.demand > 0 {
			demands = append(demands, g.demand)
		}
	}
	slices.Sort(demands)
	limit, left := 0.0, plannedShare*p.total.rate
	for i, d := range demands {
		if part := left / float64(len(demands)-i); d > part {
			limit = part
			break
		}
		left -= d
	}
	if math.Abs(limit-p.total.limit) <= 0.05*p.total.limit {
		return // periods do not follow every change
	}
	p.total.limit = limit
	for g := range p.groups {
		g.unranked = true
	}
}

// rateLocked is how many tokens the group gets in a second, 0 for no bound.
func (g *Group) rateLocked() float64 {
	rate, limit := g.prober.o.rate(), g.prober.total.limit
	if limit > 0 && (rate <= 0 || limit < rate) {
		return limit
	}
	return rate
}
