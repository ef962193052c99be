package table

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Standing is how one member stands in a table.
type Standing struct {
	Member
	verdict verdict
	Source  latency.Source  // of the distance
	ramp    float32         // the part of its weight that it has at its age
	opened  breaker.Opening // of its breaker
	score   float32         // of its last beat, for LoadAware
}

// Explanation is a table, and how its circles and members stand in it.
type Explanation struct {
	*Table
	Circles []CircleStanding // those that have members, in the order in which they are tried
	Members []Standing       // in the order of the list, see [Explanation.Sort]
	why     map[uint8]string // why calls leave for a circle
}

// Explain builds the table that picks would read now, without changing what outlives a
// table, and returns how circles and members stand in it: all of the list, also those that
// are not in the roster.
func (b *Builder) Explain(members Roster, now time.Duration) *Explanation {
	t := b.assemble(members, now, 0)
	e := &Explanation{Table: t, Members: make([]Standing, 0, len(members.Members)), why: make(map[uint8]string)}
	for i, c := range t.preferred {
		if why := b.rule.Why(i); i > 0 && i < len(b.seen) && b.seen[i].Circle == c.index && why.String() != "" {
			e.why[c.index] = fmt.Sprintf("of %s: %s", t.Name(why.From), why)
		}
	}
	next := 0 // of the roster
	for i := range members.Members {
		m := &members.Members[i]
		var vd verdict
		if members.Of == nil || next < len(members.Of) && int(members.Of[next]) == i {
			vd = b.verdicts[next]
			next++
		} else {
			b.judge(&vd, m)
			vd.State, vd.usedAs = Unmatched, Unmatched
		}
		source := m.Node.distance().Source
		if vd.known == assumed {
			source = latency.SourceAssumed
		}
		if vd.usedAs < NotReady {
			vd.distance = vd.distanceIn(&t.circles[t.index(vd.usedAs, vd.circle)])
		}
		e.Members = append(e.Members, Standing{*m, vd, source, b.ramp(m.Born, t.at), m.Breaker.Opened(), m.score(Ticks(t.at))})
	}
	e.Circles = b.circles(e, &members)
	return e
}

// Place is the circle that a member counts in, and its distance, both seen from the
// place of the table.
func (s *Standing) Place() (circle uint8, distance time.Duration) {
	return s.verdict.circle, s.verdict.distance
}

// State is the state of the member for this table.
func (s *Standing) State() State { return s.verdict.State }

// Sort orders members as they would be tried: usable ones first, nearest first.
func (e *Explanation) Sort() {
	slices.SortStableFunc(e.Members, func(a, b Standing) int {
		return cmp.Or(
			cmp.Compare(a.verdict.usedAs, b.verdict.usedAs),
			cmp.Compare(e.rank[a.verdict.circle], e.rank[b.verdict.circle]),
			cmp.Compare(a.verdict.distance, b.verdict.distance),
			cmp.Compare(a.In.ID, b.In.ID))
	})
}

var stateText = [...]string{
	Suspect:       "its lease ended and nothing proves it dead",
	LastResort:    "it has the weight 0",
	Draining:      "it is about to leave",
	Unreachable:   "it does not answer probes",
	Open:          "its breaker is open",
	DrainingOpen:  "it is about to leave and its breaker is open",
	Evacuated:     "its place is evacuated",
	EvacuatedOpen: "its place is evacuated and its breaker is open",
	Dead:          "its lease ended, or the registry is out of reach, and it does not answer probes",
}

// openText is why a breaker is open; empty if it is not.
var openText = map[breaker.Reason]string{
	breaker.ByFailures: ", calls failed",
	breaker.ByRatio:    ", too many calls failed or were far too slow",
	breaker.ByRefusal:  ", it refused the connection",
	breaker.ByRequest:  ", it asked for no calls for some time",
}

// Reason reports whether a member is in the near set that picks choose from now, and
// why it is picked or not. protocol is the one that the table was built for.
func (e *Explanation) Reason(s *Standing, protocol string) (near bool, why string) {
	t := e.Table
	switch s.verdict.State {
	case OtherProtocol:
		if _, has := s.In.Endpoints[protocol]; has || protocol == "" {
			return false, "never picked: its endpoint is a socket that this caller cannot use"
		}
		return false, fmt.Sprintf("never picked: it has no %s endpoint", protocol)
	case NotReady:
		return false, "never picked: not ready, its own check fails"
	case Gone:
		return false, "never picked: its lease ended, and it does not answer probes"
	case Unmatched:
		return false, "never picked: it is outside of the subset"
	case Outside:
		return false, fmt.Sprintf("never picked: calls must stay within the %s", t.Name(t.Outermost))
	}
	c := &t.circles[t.index(s.verdict.usedAs, s.verdict.circle)]
	because := ""
	if s.verdict.State != Usable {
		because = ": " + stateText[s.verdict.State] + openText[s.opened.Why]
	}
	reached := t.begins(c)
	switch {
	case s.verdict.usedAs != t.best:
		return false, "standby: used only when no better instance is available" + because + e.notFilled(s)
	case !reached:
		first := t.ahead(c.index)
		var why string
		if first != nil {
			why = fmt.Sprintf("%s is demoted: its nearest is at %.3g ms, that of %s at %.3g ms",
				t.Name(c.index), Milliseconds(c.demotedFor()), t.Name(first.index), Milliseconds(first.demotedFor()))
		} else {
			first = t.First
			why = fmt.Sprintf("circle %s is nearer", t.Name(first.index))
		}
		return false, fmt.Sprintf("standby: used only when no instance in circle %q is available (%s)%s", t.Name(first.index), why, because)
	case s.verdict.distance > c.limit:
		return false, fmt.Sprintf("standby: used only when no instance of the near set is available (farther than %.3g ms, the nearest of %s is at %.3g ms)%s",
			Milliseconds(c.limit), t.Name(c.index), Milliseconds(c.best), because)
	case t.Kind == KindNearest && s.verdict.distance > c.best:
		return true, fmt.Sprintf("standby: used only when the nearest instance in circle %q is not available%s", t.Name(c.index), because)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "picked by %s: in the near set of %s", t.Kind, t.Name(c.index))
	if share := t.Share(c.index); t.Spill != nil && share < 1 {
		fmt.Fprintf(&b, ", which takes %.2g %% of picks", 100*share)
		if c != t.First && e.why[c.index] != "" {
			fmt.Fprintf(&b, " because %s", e.why[c.index])
		}
	}
	if s.ramp < 1 && t.Kind.ramps() {
		fmt.Fprintf(&b, ", new: ramps up, weight %.0f of %d now", s.ramp*float32(s.In.Weight), s.In.Weight)
	}
	if t.Kind == KindLoadAware {
		b.WriteString(s.beat())
	}
	if s.Full() {
		fmt.Fprintf(&b, ", passed over while it is full: %d of %d calls in flight", s.InFlight(), s.Limit())
	}
	switch {
	case s.verdict.usedAs != s.verdict.State:
		b.WriteString(", fills in because fewer than " + e.most() + " are usable (panic)" + because)
	case because != "":
		b.WriteString(", because no better instance is available" + because)
	}
	return true, b.String()
}

// notFilled is why a member that could fill in does not.
func (e *Explanation) notFilled(s *Standing) string {
	switch {
	case !e.Panicking || s.verdict.State != Open && s.verdict.State != Suspect:
		return ""
	case s.opened.Why == breaker.ByRefusal, s.opened.Why == breaker.ByRequest:
		return "; so it does not fill in"
	}
	return "; " + e.most() + " can be picked without it"
}

// most is the part of the instances that can be picked at least.
func (e *Explanation) most() string {
	of := "the service"
	if e.Subset > 0 {
		of = "the subset"
	}
	if e.Panic == 0.5 {
		return "half of " + of
	}
	return fmt.Sprintf("%.3g %% of %s", 100*e.Panic, of)
}

func (s *Standing) beat() string {
	if s.score == 0 {
		return ", without a fresh beat: by calls in flight and their duration"
	}
	return fmt.Sprintf(", with a score of %.2f from its last beat", s.score)
}

// CircleStanding is how one circle stands in a table.
type CircleStanding struct {
	Index   uint8
	Share   float64       // of picks that begin there
	Best    time.Duration // distance of its nearest instance, of those in the best state
	Source  latency.Source
	Load    float64
	Demoted bool
	Note    string
}

func (b *Builder) circles(e *Explanation, members *Roster) []CircleStanding {
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
				s.Source = members.at(int(c.nearest)).Node.distance().Source
			}
			s.Load = c.load()
			s.Note = e.note(c)
			break
		}
		all = append(all, s)
	}
	return all
}

// note is what is special about a circle, empty if nothing is.
func (e *Explanation) note(c *Circle) string {
	t := e.Table
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if first := t.ahead(c.index); first != nil {
		add("demoted: %.3g ms away, while %s is at %.3g ms", Milliseconds(c.demotedFor()), t.Name(first.index), Milliseconds(first.demotedFor()))
	}
	k := t.index(t.best, c.index)
	if more := int(t.sizes[k]) - int(t.counts[k]); t.Panicking && more > 0 {
		add("panic: %d that are not %s fill in", more, stateName[t.best])
	}
	if can, whole := t.weights[k], t.fullWeight(c.index); can < whole {
		add("%.0f %% of its weight can be picked", 100*float64(can)/float64(whole))
	}
	if full := c.full(); full > 0 {
		add("%d of %d instances of the near set are full", full, len(c.near))
	}
	if why := e.why[c.index]; why != "" && t.begins(c) {
		add("takes picks because %s", why)
	} else if why != "" {
		add("takes no picks: %s", why)
	}
	return strings.Join(notes, "; ")
}

// full is how many instances of the near set are full.
func (c *Circle) full() (n int) {
	for _, of := range c.near {
		if of.Full() {
			n++
		}
	}
	return n
}

var stateName = [...]string{Usable: "usable", Suspect: "suspect"}

// Milliseconds is a duration as JSON and people get it.
func Milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// load is the calls in flight per instance of the near set, by weight.
func (c *Circle) load() float64 {
	weight := 0
	for _, n := range c.near {
		weight += int(weightOf(n.Instance.Load()))
	}
	now := c.count()
	return float64(now.inFlight()) * events.DefaultWeight / float64(max(1, weight))
}
