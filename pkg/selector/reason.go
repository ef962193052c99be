package selector

import (
	"fmt"
	"strings"
)

var conditionText = [...]string{
	suspect:   "its lease is gone and nothing proves it dead",
	draining:  "it is about to leave",
	open:      "its breaker is open, calls failed",
	leaving:   "it is about to leave and its breaker is open",
	evacuated: "its place is evacuated",
	abandoned: "its place is evacuated and its breaker is open",
	dead:      "its lease is gone, or the registry out of reach, and probes find nobody there",
}

// reason says what a table does with an instance of that verdict.
func (v *view) reason(t *table, r *ranked, protocol string) (near bool, why string) {
	switch r.condition {
	case foreign:
		return false, fmt.Sprintf("never picked: it has no %s endpoint", protocol)
	case notReady:
		return false, "never picked: not ready, its own check fails"
	}
	c := &t.circles[t.index(r.as, r.circle)]
	because := ""
	if r.condition != usable {
		because = ": " + conditionText[r.condition]
	}
	w, reached := t.wayTo(c)
	switch {
	case r.as != t.best:
		return false, "picked only if nothing better is left" + because + t.notFilled(r)
	case !reached:
		if first := t.ahead(c.index); first != nil {
			return false, fmt.Sprintf("picked if nothing in %s can be: %s is demoted, its best is at %.3g ms and that of %s at %.3g ms%s",
				v.name(first), v.name(c), inMilliseconds(c.away()), v.name(first), inMilliseconds(first.away()), because)
		}
		return false, fmt.Sprintf("picked if nothing in %s can be: that is nearer%s", v.name(t.first), because)
	case r.distance > c.limit:
		return false, fmt.Sprintf("picked if nothing in the near set can be: farther than %.3g ms, the nearest of %s is at %.3g ms%s",
			inMilliseconds(c.limit), v.name(c), inMilliseconds(c.best), because)
	case v.kind == kindNearest && r.distance > c.best:
		return true, fmt.Sprintf("picked if the nearest of %s cannot be%s", v.name(c), because)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "picked by %s: in the near set of %s", v.svc.sel.opts.Strategy, v.name(c))
	if share := t.share(c.index); w.over != nil {
		fmt.Fprintf(&b, ", which takes up to %.0f %% of picks for the load of %s", 100*share, v.name(w.over))
	} else if t.spill != nil && share < 1 {
		fmt.Fprintf(&b, ", which takes %.0f %% of picks", 100*share)
	}
	if r.ramp < 1 && v.ramps() {
		fmt.Fprintf(&b, ", new: ramps up, weight %.0f of %d now", r.ramp*float32(r.Weight), r.Weight)
	}
	if v.kind == kindLoadAware {
		b.WriteString(r.beat())
	}
	switch {
	case r.as != r.condition:
		b.WriteString(", in panic: fewer than half of the service are usable, so it fills in" + because)
	case because != "":
		b.WriteString(", for nothing better is left" + because)
	}
	return true, b.String()
}

func (v *view) name(c *circle) string { return v.svc.sel.opts.Levels.Name(int(c.index)) }

// ramps says whether the strategy looks at the age of instances.
func (v *view) ramps() bool { return v.kind != kindHash && v.kind != kindNearest }

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
func (t *table) notFilled(r *ranked) string {
	switch {
	case !t.panics || r.condition != open && r.condition != suspect:
		return ""
	case r.refused:
		return ", and it does not fill in, for it refused the connection"
	}
	return ", and half of the service can be picked without it"
}

func (r *ranked) beat() string {
	if r.fit == 0 {
		return ", without a fresh beat: by calls in flight and their duration"
	}
	return fmt.Sprintf(", with a score of %.2f by its beat", r.fit)
}
