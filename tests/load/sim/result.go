package sim

import (
	"math"
	"time"
)

// Result is what a run showed: for each window, of all callers (index 0) and of each group
// (index 1 and so on).
type Result struct{ Windows [][]Stats }

// Stats are figures of a window.
type Stats struct {
	Seconds  float64
	Picks    int // first attempts that began
	Away     int // of those, to another place than the nearest
	Ended    int // calls whose head came, or that failed for good
	Rejected int // of those, in the end
	Failed   int

	sum     float64
	buckets [2000]uint32 // of durations, each 1 % longer than the one before
	from    time.Duration
	series  []pickCount // per second
}

type pickCount struct{ picks, away int }

func newResult(w World) (r Result) {
	for _, win := range w.Windows {
		g := make([]Stats, w.Groups+1)
		for i := range g {
			g[i].Seconds, g[i].from = (win.To - win.From).Seconds(), win.From
			g[i].series = make([]pickCount, int(math.Ceil(g[i].Seconds)))
		}
		r.Windows = append(r.Windows, g)
	}
	return r
}

func (r *Result) each(c *Call, s *Sim, f func(*Stats)) {
	for i, w := range s.World.Windows {
		if s.Now >= w.From && s.Now < w.To {
			f(&r.Windows[i][0])
			f(&r.Windows[i][1+c.group])
		}
	}
}

func (r *Result) picked(c *Call, s *Sim) {
	if c.Attempt > 0 {
		return
	}
	away := 0
	if s.World.Callers[c.Caller].Place != s.World.Servers[c.Instance].Place {
		away = 1
	}
	r.each(c, s, func(t *Stats) {
		t.Picks++
		t.Away += away
		at := &t.series[int((s.Now - t.from).Seconds())]
		at.picks++
		at.away += away
	})
}

func (r *Result) ended(c *Call, s *Sim, picked bool) {
	took := (s.Now - c.first).Seconds()
	r.each(c, s, func(t *Stats) {
		t.Ended++
		switch {
		case !picked || c.Outcome == Failed:
			t.Failed++
		case c.Outcome == Rejected:
			t.Rejected++
		default:
			t.sum += took
			t.buckets[bucket(took)]++
		}
	})
}

const leastTook = 1e-5

func bucket(took float64) int {
	return max(0, min(1999, int(math.Log(max(took, leastTook)/leastTook)/math.Log(1.01))))
}

// AwayShare is the share of the calls that left.
func (t *Stats) AwayShare() float64 { return float64(t.Away) / math.Max(1, float64(t.Picks)) }

// RejectedShare is the share of the calls that were rejected in the end.
func (t *Stats) RejectedShare() float64 { return float64(t.Rejected) / math.Max(1, float64(t.Ended)) }

// FailedShare is the share of the calls that failed in the end.
func (t *Stats) FailedShare() float64 { return float64(t.Failed) / math.Max(1, float64(t.Ended)) }

// Rate is the successes a second.
func (t *Stats) Rate() float64 { return float64(t.Ended-t.Rejected-t.Failed) / t.Seconds }

// Mean is the mean duration of the successes.
func (t *Stats) Mean() time.Duration {
	return time.Duration(t.sum / math.Max(1, float64(t.Ended-t.Rejected-t.Failed)) * float64(time.Second))
}

// Quantile is a quantile of the durations of the successes, to 1 %.
func (t *Stats) Quantile(q float64) time.Duration {
	all := t.Ended - t.Rejected - t.Failed
	n := 0
	for i, k := range t.buckets {
		if n += int(k); n > 0 && float64(n) >= q*float64(all) {
			return time.Duration(leastTook * math.Pow(1.01, float64(i)+0.5) * float64(time.Second))
		}
	}
	return 0
}

// turnOf is by how much the share that is away must go back to be a turn.
const turnOf = 0.1

// Turns counts how often the share that is away turns round, from second to second, by
// more than a tenth of all calls. Deviation is its standard deviation. In a second with
// few calls chance alone does that, so as many seconds are taken together as have a
// thousand calls.
func (t *Stats) Turns() (turns int, deviation float64) {
	var shares []float64
	sum := pickCount{}
	for _, p := range t.series {
		sum.picks += p.picks
		sum.away += p.away
		if sum.picks >= 1000 || sum.picks >= t.Picks/20 {
			if sum.picks > 0 {
				shares = append(shares, float64(sum.away)/float64(sum.picks))
			}
			sum = pickCount{}
		}
	}
	if len(shares) == 0 {
		return 0, 0
	}
	mean, low, high, up := 0.0, shares[0], shares[0], 0
	for _, x := range shares {
		mean += x / float64(len(shares))
		low, high = min(low, x), max(high, x)
		switch {
		case up >= 0 && x < high-turnOf:
			if up > 0 {
				turns++
			}
			up, low, high = -1, x, x
		case up <= 0 && x > low+turnOf:
			if up < 0 {
				turns++
			}
			up, low, high = 1, x, x
		}
	}
	for _, x := range shares {
		deviation += (x - mean) * (x - mean) / float64(len(shares))
	}
	return turns, math.Sqrt(deviation)
}

// Series is the share that is away, second by second.
func (t *Stats) Series() (shares []float64) {
	for _, p := range t.series {
		shares = append(shares, float64(p.away)/math.Max(1, float64(p.picks)))
	}
	return shares
}
