package selector

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// standing is how one member stands in a table.
type standing struct {
	member
	verdict
	source  latency.Source // of the distance
	ramp    float32        // the share of its weight that it gets for its age
	refused bool           // its breaker is open for that
	fit     float32        // its score by its beat, for LoadAware
}

// explain makes the table that picks would read now, changing nothing that
// outlives it, and says how each member stands in it, in the order of the list.
func (b *builder) explain(members []member, now time.Duration) (*table, []standing) {
	t := b.build(members, now, 0)
	all := make([]standing, len(members))
	for i := range members {
		m, vd := &members[i], b.verdicts[i]
		source := m.node.distance().Source
		if vd.known == assumed {
			source = latency.SourceAssumed
		}
		if vd.as < notReady {
			vd.distance = vd.from(&t.circles[t.index(vd.as, vd.circle)])
		}
		_, refused := m.breaker.Opened()
		all[i] = standing{*m, vd, source, b.ramp(m.born, t.at), refused, m.fit(ticks(t.at))}
	}
	return t, all
}

// inOrder puts members as they would be tried: usable ones first, nearest first.
func (t *table) inOrder(all []standing) {
	slices.SortStableFunc(all, func(a, b standing) int {
		return cmp.Or(
			cmp.Compare(a.as, b.as),
			cmp.Compare(t.rank[a.verdict.circle], t.rank[b.verdict.circle]),
			cmp.Compare(a.verdict.distance, b.verdict.distance),
			cmp.Compare(a.in.ID, b.in.ID))
	})
}

var conditionText = [...]string{
	suspect:   "its lease is gone and nothing proves it dead",
	draining:  "it is about to leave",
	open:      "its breaker is open, calls failed",
	leaving:   "it is about to leave and its breaker is open",
	evacuated: "its place is evacuated",
	abandoned: "its place is evacuated and its breaker is open",
	dead:      "its lease is gone, or the registry out of reach, and probes find nobody there",
}

// reason says what a table does with a member.
func (t *table) reason(s *standing, protocol string) (near bool, why string) {
	switch s.verdict.condition {
	case foreign:
		return false, fmt.Sprintf("never picked: it has no %s endpoint", protocol)
	case notReady:
		return false, "never picked: not ready, its own check fails"
	}
	c := &t.circles[t.index(s.as, s.verdict.circle)]
	because := ""
	if s.verdict.condition != usable {
		because = ": " + conditionText[s.verdict.condition]
	}
	w, reached := t.wayTo(c)
	switch {
	case s.as != t.best:
		return false, "picked only if nothing better is left" + because + t.notFilled(s)
	case !reached:
		if first := t.ahead(c.index); first != nil {
			return false, fmt.Sprintf("picked if nothing in %s can be: %s is demoted, its best is at %.3g ms and that of %s at %.3g ms%s",
				t.name(first.index), t.name(c.index), inMilliseconds(c.away()), t.name(first.index), inMilliseconds(first.away()), because)
		}
		return false, fmt.Sprintf("picked if nothing in %s can be: that is nearer%s", t.name(t.first.index), because)
	case s.verdict.distance > c.limit:
		return false, fmt.Sprintf("picked if nothing in the near set can be: farther than %.3g ms, the nearest of %s is at %.3g ms%s",
			inMilliseconds(c.limit), t.name(c.index), inMilliseconds(c.best), because)
	case t.kind == kindNearest && s.verdict.distance > c.best:
		return true, fmt.Sprintf("picked if the nearest of %s cannot be%s", t.name(c.index), because)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "picked by %s: in the near set of %s", t.kind, t.name(c.index))
	if share := t.share(c.index); w.over != nil {
		fmt.Fprintf(&b, ", which takes up to %.0f %% of picks for the load of %s", 100*share, t.name(w.over.index))
	} else if t.spill != nil && share < 1 {
		fmt.Fprintf(&b, ", which takes %.0f %% of picks", 100*share)
	}
	if s.ramp < 1 && t.kind.ramps() {
		fmt.Fprintf(&b, ", new: ramps up, weight %.0f of %d now", s.ramp*float32(s.in.Weight), s.in.Weight)
	}
	if t.kind == kindLoadAware {
		b.WriteString(s.beat())
	}
	switch {
	case s.as != s.verdict.condition:
		b.WriteString(", in panic: fewer than half of the service are usable, so it fills in" + because)
	case because != "":
		b.WriteString(", for nothing better is left" + because)
	}
	return true, b.String()
}

// wayTo is how picks come to begin with a circle, false if they do not.
func (t *table) wayTo(c *circle) (way, bool) {
	if t.spill == nil {
		return way{to: c}, c == t.first
	}
	for _, w := range t.spill.ways {
		if w.to == c {
			return w, true
		}
	}
	return way{}, false
}

// notFilled says why one that might fill in does not.
func (t *table) notFilled(s *standing) string {
	switch {
	case !t.panics || s.verdict.condition != open && s.verdict.condition != suspect:
		return ""
	case s.refused:
		return ", and it does not fill in, for it refused the connection"
	}
	return ", and half of the service can be picked without it"
}

func (s *standing) beat() string {
	if s.fit == 0 {
		return ", without a fresh beat: by calls in flight and their duration"
	}
	return fmt.Sprintf(", with a score of %.2f by its beat", s.fit)
}

// circleStanding is how one circle stands in a table.
type circleStanding struct {
	index   uint8
	share   float64       // of picks that begin there
	best    time.Duration // distance of its nearest instance, of those in the best condition
	source  latency.Source
	load    float64
	demoted bool
	note    string
}

// circlesOf are those of a table that have members, in the order in which they
// are tried.
func (b *builder) circlesOf(t *table, members []member) []circleStanding {
	var all []circleStanding
	for place, index := range b.order.circles {
		if t.has(index) == 0 {
			continue
		}
		s := circleStanding{index: index, share: t.share(index), demoted: t.demoted(index)}
		for what := range notReady {
			k := int(what)*t.levels + place
			if t.sizes[k] == 0 {
				continue
			}
			c := &t.circles[k]
			s.best, s.source = c.best, latency.SourceAssumed
			if c.known {
				s.source = members[c.nearest].node.distance().Source
			}
			s.load = c.load()
			if b.home && b.spills {
				s.load = b.loads[index]
			}
			s.note = t.note(c)
			break
		}
		all = append(all, s)
	}
	return all
}

// note says what is special about a circle.
func (t *table) note(c *circle) string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if first := t.ahead(c.index); first != nil {
		add("demoted: %.3g ms away, while %s is at %.3g ms", inMilliseconds(c.away()), t.name(first.index), inMilliseconds(first.away()))
	}
	k := t.index(t.best, c.index)
	if more := int(t.sizes[k]) - int(t.counts[k]); t.panics && more > 0 {
		add("panic: %d that are not %s fill in", more, conditionName[t.best])
	}
	if can, whole := t.weights[k], t.weighs(c.index); can < whole && t.spill != nil {
		add("%.0f %% of its weight can be picked", 100*float64(can)/float64(whole))
	}
	if w, ok := t.wayTo(c); ok && w.over != nil {
		add("added for the load of %s", t.name(w.over.index))
	}
	return strings.Join(notes, "; ")
}

var conditionName = [...]string{usable: "usable", suspect: "suspect"}

func inMilliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
