package latency

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// How often an instance is measured follows from its rank in its circle. An
// instance that may be picked, or nearly, contends: it is measured PerInterval
// times in each Interval. The others have a weight of 1/(2·rank), so that the work
// grows with the logarithm of a service's size. An outer circle gets a share of
// that: it is needed only when the first one is not enough.
const (
	maxContenders     = 16 // of one circle
	secondCircleShare = 0.25
	outerCircleShare  = 0.125
	// An instance contends if it is about as near as the nearest one. Predicted
	// distances get more room than measured ones.
	contendFactor, contendSlack     = 1.4, 2 * time.Millisecond
	predictedFactor, predictedSlack = 2.0, 5 * time.Millisecond

	// nearerFactor is how much nearer than the nearest so far another instance
	// must be to be reported as the nearest.
	nearerFactor = 0.98
)

// candidate is a member during a ranking.
type candidate struct {
	path     *Path
	circle   uint8
	estimate Estimate // without one: no source, and the longest distance
	tiebreak uint64   // differs by caller: they do not all begin with the same instance
}

// rankLocked orders the paths of a group, and decides how often and when each is
// measured.
func (g *Group) rankLocked(now time.Duration) {
	p := g.prober
	g.unranked, g.changed, g.rankedAt = false, false, now
	all := make([]candidate, 0, len(g.members))
	for _, m := range g.members {
		if !g.has(m.Path) {
			continue
		}
		e, known := unpackEstimate(m.estimate.Load())
		if !known {
			e.Distance = math.MaxInt64
		}
		all = append(all, candidate{m.Path, m.Circle, e, mix(m.hash, p.hash)})
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.circle != b.circle {
			return cmp.Compare(a.circle, b.circle)
		}
		if by := cmp.Compare(a.estimate.Distance, b.estimate.Distance); by != 0 {
			return by
		}
		return cmp.Compare(a.tiebreak, b.tiebreak)
	})
	before := len(g.ranked)
	g.ranked = g.ranked[:0]
	for _, s := range all {
		g.ranked = append(g.ranked, s.path)
	}
	if len(all) < before { // do not keep paths that have left alive
		clear(g.ranked[len(all):before])
	}

	weights := make([]float64, len(all))
	demand := 0.0 // measurements per second
	order := 0
	best := make([]*Path, 0, 4)
	for from := 0; from < len(all); order++ {
		to := from + 1
		for to < len(all) && all[to].circle == all[from].circle {
			to++
		}
		demand += weigh(all[from:to], weights[from:to], order)
		for i, s := range all[from:to] {
			s.path.circleRank, s.path.rank = order, from+i
		}
		best = append(best, nearest(all[from:to]))
		from = to
	}
	reporters := len(g.live) + 1 // share the work, this one included
	demand *= float64(p.o.PerInterval) / p.o.Interval.Seconds()
	g.demand = demand / float64(reporters) / stretch(demand, reporters, p.o.rate())
	if g.pace != awake {
		g.demand /= dozeFactor
	}
	by, limit := stretch(demand, reporters, g.rateLocked()), p.o.longest(len(all), reporters, g.rateLocked())
	for i, s := range all {
		period := p.o.period(weights[i], by, reporters, limit)
		if g.pace != awake {
			period *= dozeFactor
		}
		if s.path.target.Rare {
			period *= rareFactor
		}
		g.scheduleLocked(s.path, period, now)
	}
	g.notifyNearestLocked(best)
}

// weigh sets the weights of the members of one circle and returns their sum.
func weigh(circle []candidate, weights []float64, order int) (sum float64) {
	base := 1.0
	switch {
	case order == 1:
		base = secondCircleShare
	case order > 1:
		base = outerCircleShare
	}
	limit, predicted := time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	if n := nearest(circle); n != nil {
		e, _ := unpackEstimate(n.estimate.Load())
		limit = max(time.Duration(float64(e.Distance)*contendFactor), e.Distance+contendSlack)
		predicted = max(time.Duration(float64(e.Distance)*predictedFactor), e.Distance+predictedSlack)
	}
	for i, s := range circle {
		contends := s.estimate.Source != "" && i < maxContenders &&
			(s.estimate.Distance <= limit || s.estimate.Source == SourcePredicted && s.estimate.Distance <= predicted)
		s.path.contends = order == 0 && contends
		weights[i] = base
		if !contends {
			weights[i] = base / float64(2*max(i, 1))
		}
		sum += weights[i]
	}
	return sum
}

// nearest is the first path of a ranked circle with a measured distance. Without
// one it is the first with a predicted distance, and nil without that.
func nearest(circle []candidate) *Path {
	var predicted *Path
	for _, s := range circle {
		if s.estimate.Measured() {
			return s.path
		}
		if predicted == nil && s.estimate.Source == SourcePredicted {
			predicted = s.path
		}
	}
	return predicted
}

// notifyNearestLocked makes onChange due when another path is the nearest of a
// circle, though none may have moved much. A path that became known or unknown
// has made onChange due already.
func (g *Group) notifyNearestLocked(best []*Path) {
	if g.best == nil {
		g.best = best
		return
	}
	changed := len(best) != len(g.best)
	for i := 0; i < len(best) && !changed; i++ {
		switch is, was := best[i], g.best[i]; {
		case is == was:
		case is == nil || was == nil:
			g.best[i] = is
		default:
			to, _ := unpackEstimate(is.estimate.Load())
			from, ok := unpackEstimate(was.estimate.Load())
			changed = !ok || was.group != g || float64(to.Distance) < nearerFactor*float64(from.Distance)
		}
	}
	if changed {
		g.best = best
		g.prober.dirtyLocked(g)
	}
}

// scheduleLocked sets how often the zone measures a path, and when this caller
// does next.
func (g *Group) scheduleLocked(pa *Path, period, now time.Duration) {
	if !pa.probed() {
		return
	}
	p := g.prober
	_, known := unpackEstimate(pa.estimate.Load())
	first := pa.period == 0 || !known
	changed := pa.period != period
	if changed {
		pa.setPeriodLocked(period, now)
	}
	switch {
	case pa.cancel != nil: // finish plans the next
	case pa.urgent:
		p.queueProbeLocked(pa)
	case first:
		g.firstLocked(pa, now)
	case changed || pa.probe.in == nil:
		g.planLocked(pa, now)
	}
}

// firstLocked plans the first probe of a path, or the first after its samples
// expired. It is due at once, after a short delay that keeps first probes apart.
// Where other reporters may measure the path, they get the time to.
func (g *Group) firstLocked(pa *Path, now time.Duration) {
	e, _ := unpackEstimate(pa.estimate.Load())
	if e.Measured() || g.listening {
		g.planLocked(pa, now) // the reporters have measured it, or will
		return
	}
	pa.urgent = true
	pa.next = now + g.firstDelayLocked(pa)
	if pa.probedAt > 0 {
		pa.next = max(pa.next, pa.probedAt+retryPause) // it was in a group before
	}
	g.prober.queueProbeLocked(pa)
}
