// Package cases says when calls must leave a circle, and when not: worlds for
// [github.com/proxima-discovery/proxima/tests/load/sim], and what must hold in them
// by any picker.
package cases

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/tests/load/sim"
)

// Setup is what a picker is told.
type Setup struct {
	Price   []time.Duration // by circle, nearest first; missing ones are 0
	Measure int             // one of so many calls is measured; 0: each
	Hints   bool            // callers tell each other what they know
	Stay    bool            // no call leaves for load
}

// Picker makes the picker of a world, for all of its callers.
type Picker func(*sim.Sim, Setup) sim.Picker

// Case is a world, and what must hold.
type Case struct {
	Name  string
	Setup Setup
	World func() sim.World
	Wants []Want
	// Unsolved says why nothing is asked of it.
	Unsolved string
}

// Figure is something that a run shows.
type Figure string

// The figures.
const (
	Away      Figure = "away %"
	Mean      Figure = "mean ms"
	P50       Figure = "p50 ms"
	P99       Figure = "p99 ms"
	Rejected  Figure = "rejected %"
	Failed    Figure = "failed %"
	Turns     Figure = "turns"
	Deviation Figure = "deviation %"
	Rate      Figure = "calls/s"
)

// Want is a bound of a figure, for each seed.
type Want struct {
	Figure      Figure
	Least, Most float64
	Window      int
	Group       int // 0: all callers; 1 is the first group
}

func least(f Figure, x float64) Want { return Want{Figure: f, Least: x, Most: math.Inf(1)} }
func most(f Figure, x float64) Want  { return Want{Figure: f, Least: math.Inf(-1), Most: x} }
func within(f Figure, low, high float64) Want {
	return Want{Figure: f, Least: low, Most: high}
}

// in is the want in another window; of is it for a group.
func (w Want) in(window int) Want { w.Window = window; return w }
func (w Want) of(group int) Want  { w.Group = group; return w }

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// value is a figure of a window.
func value(t *sim.Stats, f Figure) float64 {
	turns, deviation := t.Turns()
	switch f {
	case Away:
		return 100 * t.AwayShare()
	case Mean:
		return ms(t.Mean())
	case P50:
		return ms(t.Quantile(0.5))
	case P99:
		return ms(t.Quantile(0.99))
	case Rejected:
		return 100 * t.RejectedShare()
	case Failed:
		return 100 * t.FailedShare()
	case Turns:
		return float64(turns)
	case Deviation:
		return 100 * deviation
	case Rate:
		return t.Rate()
	}
	panic("unknown figure " + f)
}

// Spread is a figure over the seeds: its mean with a 95 % confidence interval, and
// its worst, which is the greatest.
type Spread struct {
	Mean  float64 `json:"mean"`
	Plus  float64 `json:"plus_minus"`
	Worst float64 `json:"worst"`
}

// studentT is the 97.5 % quantile of Student's distribution, by degrees of freedom.
var studentT = []float64{0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23}

func spread(x []float64) (s Spread) {
	n := float64(len(x))
	s.Worst = slices.Max(x)
	for _, v := range x {
		s.Mean += v / n
	}
	if len(x) < 2 {
		return s
	}
	sq := 0.0
	for _, v := range x {
		sq += (v - s.Mean) * (v - s.Mean)
	}
	t := 1.96
	if len(x)-1 < len(studentT) {
		t = studentT[len(x)-1]
	}
	s.Plus = t * math.Sqrt(sq/(n-1)/n)
	return s
}

// Row is what a case showed.
type Row struct {
	Case    string               `json:"case"`
	Window  int                  `json:"window"`
	Figures map[Figure]Spread    `json:"figures"`
	Stay    map[Figure]float64   `json:"stay,omitempty"` // if no call leaves, with one seed
	Failed  []string             `json:"failed,omitempty"`
	Note    string               `json:"note,omitempty"`
	Series  map[uint64][]float64 `json:"-"`
}

var figures = []Figure{Away, Mean, P50, P99, Rejected, Failed, Turns, Deviation, Rate}

// Run lets a case live with each seed, and to compare once with all calls staying. There
// is a row for each window.
func (c *Case) Run(p Picker, seeds []uint64, compare bool) (rows []Row) {
	w := c.World()
	results := make([]sim.Result, len(seeds))
	for i, seed := range seeds {
		s := sim.New(c.World(), seed)
		results[i] = s.Run(p(s, c.Setup))
	}
	var stay sim.Result
	if compare {
		setup := c.Setup
		setup.Stay = true
		s := sim.New(c.World(), seeds[0])
		stay = s.Run(p(s, setup))
	}
	for win := range w.Windows {
		row := Row{Case: c.Name, Window: win, Figures: make(map[Figure]Spread), Stay: make(map[Figure]float64), Note: c.Unsolved, Series: make(map[uint64][]float64)}
		if win > 0 {
			row.Case += ", then"
		}
		for _, f := range figures {
			var x []float64
			for i := range results {
				x = append(x, value(&results[i].Windows[win][0], f))
			}
			row.Figures[f] = spread(x)
			if compare {
				row.Stay[f] = value(&stay.Windows[win][0], f)
			}
		}
		for i, seed := range seeds {
			row.Series[seed] = results[i].Windows[win][0].Series()
		}
		for _, want := range c.Wants {
			if want.Window != win {
				continue
			}
			for i, seed := range seeds {
				got := value(&results[i].Windows[win][want.Group], want.Figure)
				if !(got >= want.Least && got <= want.Most) {
					row.Failed = append(row.Failed, fmt.Sprintf("seed %d: %s %.4g, want %s", seed, want.subject(), got, want.bounds()))
				}
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func (w Want) subject() string {
	if w.Group > 0 {
		return fmt.Sprintf("%s of group %d", w.Figure, w.Group)
	}
	return string(w.Figure)
}

func (w Want) bounds() string {
	var s []string
	if !math.IsInf(w.Least, 0) {
		s = append(s, fmt.Sprintf("at least %.4g", w.Least))
	}
	if !math.IsInf(w.Most, 0) {
		s = append(s, fmt.Sprintf("at most %.4g", w.Most))
	}
	return strings.Join(s, " and ")
}
