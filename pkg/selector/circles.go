package selector

import (
	"fmt"
	"math"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// CircleState says how a circle stands with a selector.
type CircleState struct {
	Circle    string `json:"circle"`
	Instances int    `json:"instances"`
	Usable    int    `json:"usable"`
	// Share is how much of the picks begin there, 0 to 1. Of those that come
	// for the load of a nearer circle, a strategy that weighs instances up
	// leaves there what is better off there.
	Share float64 `json:"share"`
	// BestMS is the distance of its nearest instance, of those in the best
	// condition, and DistanceSource how it is known.
	BestMS         float64 `json:"best_ms"`
	DistanceSource string  `json:"distance_source"`
	// Demoted says that it stands behind a circle that is much nearer by
	// distance.
	Demoted bool `json:"demoted"`
	// Load is this caller's calls in flight per instance of the near set, by
	// weight; on average over a second for the selector's own place.
	Load float64 `json:"load"`
	Note string  `json:"note"` // why it takes what it takes, if that is not all or nothing
}

// circles are those of a table that have instances. The service is locked.
func (v *view) circles(t *table) []CircleState {
	var all []CircleState
	for place, index := range v.order.circles {
		name := v.svc.sel.opts.Levels.Name(int(index))
		n := t.census(index, name)
		if n.Total == 0 {
			continue
		}
		s := CircleState{Circle: name, Instances: n.Total, Usable: n.Usable, Share: rounded(t.share(index), 4), Demoted: t.demoted(index)}
		for what := range notReady {
			k := int(what)*t.levels + place
			if t.sizes[k] == 0 {
				continue
			}
			c := &t.circles[k]
			s.BestMS, s.DistanceSource = inMilliseconds(c.best), string(latency.SourceAssumed)
			if c.known {
				s.DistanceSource = string(v.svc.members[c.nearest].node.distance().Source)
			}
			s.Load = c.load()
			if v.home && v.svc.spills {
				s.Load = v.loads[index]
			}
			s.Load = rounded(s.Load, 3)
			s.Note = v.note(t, c)
			break
		}
		all = append(all, s)
	}
	return all
}

func rounded(f float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(f*scale) / scale
}

// note says what is special about a circle.
func (v *view) note(t *table, c *circle) string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if first := t.ahead(c.index); first != nil {
		add("demoted: %.3g ms away, while %s is at %.3g ms", inMilliseconds(c.away()), v.name(first), inMilliseconds(first.away()))
	}
	k := t.index(t.best, c.index)
	if more := int(t.sizes[k]) - int(t.counts[k]); t.panics && more > 0 {
		add("panic: %d that are not %s fill in", more, conditionName[t.best])
	}
	if can, whole := t.weights[k], t.weighs(c.index); can < whole && t.spill != nil {
		add("%.0f %% of its weight can be picked", 100*float64(can)/float64(whole))
	}
	if w, ok := t.wayTo(c); ok && w.over != nil {
		add("added for the load of %s", v.name(w.over))
	}
	return strings.Join(notes, "; ")
}

var conditionName = [...]string{usable: "usable", suspect: "suspect"}
