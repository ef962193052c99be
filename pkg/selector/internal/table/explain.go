package table

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Standing is how one member stands in a table.
type Standing struct {
	Member
	verdict verdict
	Source  latency.Source // of the distance
	ramp    float32        // the share of its weight that it gets for its age
	refused bool           // its breaker is open for that
	fit     float32        // its score by its beat, for LoadAware
}

// Explanation is a table with how circles and members stand in it.
type Explanation struct {
	*Table
	Circles []CircleStanding // those that have members, in the order in which they are tried
	Members []Standing       // in the order of the list, see [Explanation.Sort]
}

// Explain makes the table that picks would read now, changing nothing that
// outlives it, and says how each member stands in it.
func (b *Builder) Explain(members []Member, now time.Duration) *Explanation {
	t := b.assemble(members, now, 0)
	e := &Explanation{Table: t, Members: make([]Standing, len(members))}
	for i := range members {
		m, vd := &members[i], b.verdicts[i]
		source := m.Node.distance().Source
		if vd.known == assumed {
			source = latency.SourceAssumed
		}
		if vd.as < NotReady {
			vd.distance = vd.from(&t.circles[t.index(vd.as, vd.circle)])
		}
		_, refused := m.Breaker.Opened()
		e.Members[i] = Standing{*m, vd, source, b.ramp(m.Born, t.at), refused, m.fit(Ticks(t.at))}
	}
	e.Circles = b.circles(e, members)
	return e
}

// Place is the circle that a member counts as one of, and its distance from the place
// of the table.
func (s *Standing) Place() (circle uint8, distance time.Duration) {
	return s.verdict.circle, s.verdict.distance
}

// State is what a table takes a member for.
func (s *Standing) State() State { return s.verdict.State }

// Sort puts members as they would be tried: usable ones first, nearest first.
func (e *Explanation) Sort() {
	slices.SortStableFunc(e.Members, func(a, b Standing) int {
		return cmp.Or(
			cmp.Compare(a.verdict.as, b.verdict.as),
			cmp.Compare(e.rank[a.verdict.circle], e.rank[b.verdict.circle]),
			cmp.Compare(a.verdict.distance, b.verdict.distance),
			cmp.Compare(a.In.ID, b.In.ID))
	})
}

var conditionText = [...]string{
	Suspect:   "its lease is gone and nothing proves it dead",
	Draining:  "it is about to leave",
	Open:      "its breaker is open, calls failed",
	Leaving:   "it is about to leave and its breaker is open",
	Evacuated: "its place is evacuated",
	Abandoned: "its place is evacuated and its breaker is open",
	Dead:      "its lease is gone, or the registry out of reach, and probes find nobody there",
}

// Reason says what a table does with a member.
func (e *Explanation) Reason(s *Standing, protocol string) (near bool, why string) {
	t := e.Table
	switch s.verdict.State {
	case Foreign:
		return false, fmt.Sprintf("never picked: it has no %s endpoint", protocol)
	case NotReady:
		return false, "never picked: not ready, its own check fails"
	}
	c := &t.circles[t.index(s.verdict.as, s.verdict.circle)]
	because := ""
	if s.verdict.State != Usable {
		because = ": " + conditionText[s.verdict.State]
	}
	w, reached := t.wayTo(c)
	switch {
	case s.verdict.as != t.best:
		return false, "picked only if nothing better is left" + because + e.notFilled(s)
	case !reached:
		if first := t.ahead(c.index); first != nil {
			return false, fmt.Sprintf("picked if nothing in %s can be: %s is demoted, its best is at %.3g ms and that of %s at %.3g ms%s",
				t.Name(first.index), t.Name(c.index), Milliseconds(c.away()), t.Name(first.index), Milliseconds(first.away()), because)
		}
		return false, fmt.Sprintf("picked if nothing in %s can be: that is nearer%s", t.Name(t.First.index), because)
	case s.verdict.distance > c.limit:
		return false, fmt.Sprintf("picked if nothing in the near set can be: farther than %.3g ms, the nearest of %s is at %.3g ms%s",
			Milliseconds(c.limit), t.Name(c.index), Milliseconds(c.best), because)
	case t.Kind == KindNearest && s.verdict.distance > c.best:
		return true, fmt.Sprintf("picked if the nearest of %s cannot be%s", t.Name(c.index), because)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "picked by %s: in the near set of %s", t.Kind, t.Name(c.index))
	if share := t.Share(c.index); w.over != nil {
		fmt.Fprintf(&b, ", which takes up to %.0f %% of picks for the load of %s", 100*share, t.Name(w.over.index))
	} else if t.Spill != nil && share < 1 {
		fmt.Fprintf(&b, ", which takes %.0f %% of picks", 100*share)
	}
	if s.ramp < 1 && t.Kind.ramps() {
		fmt.Fprintf(&b, ", new: ramps up, weight %.0f of %d now", s.ramp*float32(s.In.Weight), s.In.Weight)
	}
	if t.Kind == KindLoadAware {
		b.WriteString(s.beat())
	}
	switch {
	case s.verdict.as != s.verdict.State:
		b.WriteString(", in panic: fewer than half of the service are usable, so it fills in" + because)
	case because != "":
		b.WriteString(", for nothing better is left" + because)
	}
	return true, b.String()
}

// notFilled says why one that might fill in does not.
func (e *Explanation) notFilled(s *Standing) string {
	switch {
	case !e.Panics || s.verdict.State != Open && s.verdict.State != Suspect:
		return ""
	case s.refused:
		return ", and it does not fill in, for it refused the connection"
	}
	return ", and half of the service can be picked without it"
}

func (s *Standing) beat() string {
	if s.fit == 0 {
		return ", without a fresh beat: by calls in flight and their duration"
	}
	return fmt.Sprintf(", with a score of %.2f by its beat", s.fit)
}

// circleStanding is how one circle stands in a table.
type CircleStanding struct {
	Index   uint8
	Share   float64       // of picks that begin there
	Best    time.Duration // distance of its nearest instance, of those in the best condition
	Source  latency.Source
	Load    float64
	Demoted bool
	Note    string
}

func (b *Builder) circles(e *Explanation, members []Member) []CircleStanding {
	t := e.Table
	var all []CircleStanding
	for place, index := range b.order.circles {
		if t.Instances(index) == 0 {
			continue
		}
		s := CircleStanding{Index: index, Share: t.Share(index), Demoted: t.Demoted(index)}
		for what := range NotReady {
			k := int(what)*t.levels + place
			if t.sizes[k] == 0 {
				continue
			}
			c := &t.circles[k]
			s.Best, s.Source = c.best, latency.SourceAssumed
			if c.known {
				s.Source = members[c.nearest].Node.distance().Source
			}
			s.Load = c.load()
			if b.Home && b.Spills {
				s.Load = b.loads[index]
			}
			s.Note = e.note(c)
			break
		}
		all = append(all, s)
	}
	return all
}

// note says what is special about a circle.
func (e *Explanation) note(c *Circle) string {
	t := e.Table
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if first := t.ahead(c.index); first != nil {
		add("demoted: %.3g ms away, while %s is at %.3g ms", Milliseconds(c.away()), t.Name(first.index), Milliseconds(first.away()))
	}
	k := t.index(t.best, c.index)
	if more := int(t.sizes[k]) - int(t.counts[k]); t.Panics && more > 0 {
		add("panic: %d that are not %s fill in", more, conditionName[t.best])
	}
	if can, whole := t.weights[k], t.weighs(c.index); can < whole && t.Spill != nil {
		add("%.0f %% of its weight can be picked", 100*float64(can)/float64(whole))
	}
	if w, ok := t.wayTo(c); ok && w.over != nil {
		add("added for the load of %s", t.Name(w.over.index))
	}
	return strings.Join(notes, "; ")
}

var conditionName = [...]string{Usable: "usable", Suspect: "suspect"}

func Milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
