package selector

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Explanation says of every instance of a service whether it would be picked,
// and why. Its JSON is what the router's doors answer.
type Explanation struct {
	Service  string `json:"service"`
	Stale    bool   `json:"stale"` // the registry cannot be reached: this is the last that was known
	From     string `json:"from"`  // the place that is to be near: region/zone
	Strategy string `json:"strategy"`
	// Instances in the order in which they would be tried: usable ones
	// first, nearest first.
	Instances []Candidate `json:"instances"`
}

// Candidate is one instance in an [Explanation]. In JSON its fields stand
// beside those of the instance.
type Candidate struct {
	events.Instance `json:"-"`
	Standing
}

// Standing is how an instance stands with a selector.
type Standing struct {
	Circle         string  `json:"circle"`
	DistanceMS     float64 `json:"distance_ms"`     // the round trip
	DistanceSource string  `json:"distance_source"` // measured or assumed
	Breaker        string  `json:"breaker"`         // closed, half-open or open
	Suspect        bool    `json:"suspect"`
	InFlight       int     `json:"in_flight"`
	Picks          uint64  `json:"picks"`   // by this selector, ever
	CallMS         float64 `json:"call_ms"` // average duration of its calls, 0 if not known
	Near           bool    `json:"near"`    // in the near set that picks choose from now
	Reason         string  `json:"reason"`  // why it is picked or not
}

// MarshalJSON writes the fields of the instance and of the candidate side by side.
func (c Candidate) MarshalJSON() ([]byte, error) {
	in, err := json.Marshal(c.Instance)
	if err != nil {
		return nil, err
	}
	more, err := json.Marshal(c.Standing)
	if err != nil {
		return nil, err
	}
	in[len(in)-1] = ','
	return append(in, bytes.TrimPrefix(more, []byte("{"))...), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Candidate) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &c.Instance); err != nil {
		return err
	}
	return json.Unmarshal(data, &c.Standing)
}

// Explain returns what a pick would see now. It waits for the first snapshot
// as Pick does. A service without instances is [ErrUnknownService].
func (s *Selector) Explain(ctx context.Context, r Request) (Explanation, error) {
	svc, err := s.service(r.Service)
	if err != nil {
		return Explanation{}, err
	}
	v := svc.view(&r)
	t := v.current()
	if t == nil {
		if v, t, err = s.await(ctx, svc, &r); err != nil {
			return Explanation{}, err
		}
	}
	if t.total == 0 {
		return Explanation{}, v.nothing(t)
	}
	return v.explain(r.Protocol), nil
}

// ranked is a candidate before it is put in its place.
type ranked struct {
	verdict
	Candidate
}

func (v *view) explain(protocol string) Explanation {
	svc, opts := v.svc, &v.svc.sel.opts
	e := Explanation{Service: svc.name, From: v.place.String(), Strategy: string(opts.Strategy)}
	svc.mu.Lock()
	e.Stale = svc.stale
	for i := range svc.members {
		svc.members[i].look()
	}
	t := v.build(svc.members, 0)
	all := make([]ranked, len(svc.members))
	for i := range svc.members {
		all[i] = v.candidate(t, &svc.members[i])
	}
	svc.mu.Unlock()

	slices.SortStableFunc(all, func(a, b ranked) int {
		return cmp.Or(
			cmp.Compare(a.condition, b.condition),
			cmp.Compare(a.circle, b.circle),
			cmp.Compare(a.distance, b.distance),
			cmp.Compare(a.ID, b.ID))
	})
	e.Instances = make([]Candidate, len(all))
	for i, c := range all {
		c.Near, c.Reason = v.reason(t, c.verdict, protocol)
		e.Instances[i] = c.Candidate
	}
	return e
}

// candidate is a member as a table has it. The service is locked.
func (v *view) candidate(t *table, m *member) ranked {
	vd := v.judge(m)
	source := m.node.distance().Source
	if vd.assumed {
		source = latency.SourceAssumed
	}
	if vd.condition < notReady {
		vd.distance = vd.from(&t.circles[t.index(vd.condition, vd.circle)])
	}
	call, _ := unpackCost(m.cost.Load())
	return ranked{vd, Candidate{*m.in, Standing{
		Circle:         v.svc.sel.opts.Levels.Name(int(vd.circle)),
		DistanceMS:     inMilliseconds(vd.distance),
		DistanceSource: string(source),
		Breaker:        m.breaker.State().String(),
		Suspect:        m.suspect,
		InFlight:       int(m.inFlight()),
		Picks:          m.picks(),
		CallMS:         inMilliseconds(time.Duration(call)),
	}}}
}

func inMilliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// reason says what a table does with an instance of that verdict.
func (v *view) reason(t *table, vd verdict, protocol string) (near bool, why string) {
	switch vd.condition {
	case foreign:
		return false, fmt.Sprintf("never picked: it has no %s endpoint", protocol)
	case notReady:
		return false, "never picked: not ready, its own check fails"
	}
	c := &t.circles[t.index(vd.condition, vd.circle)]
	name := v.svc.sel.opts.Levels.Name(int(vd.circle))
	because, but := "", ""
	if vd.condition != usable {
		because = ": " + conditionText[vd.condition]
		but = ", for nothing better is left" + because
	}
	switch {
	case vd.condition != t.best:
		return false, "picked only if nothing better is left" + because
	case c != t.first:
		return false, fmt.Sprintf("picked if nothing in %s can be: that is nearer%s", v.svc.sel.opts.Levels.Name(int(t.first.index)), because)
	case vd.distance > c.limit:
		return false, fmt.Sprintf("picked if nothing in the near set can be: farther than %.3g ms, the nearest of %s is at %.3g ms%s",
			inMilliseconds(c.limit), name, inMilliseconds(c.best), because)
	case v.kind == kindNearest && vd.distance > c.best:
		return true, fmt.Sprintf("picked if the nearest of %s cannot be%s", name, because)
	}
	return true, fmt.Sprintf("picked by %s: in the near set of %s%s", v.svc.sel.opts.Strategy, name, but)
}

var conditionText = [...]string{
	suspect:  "its lease is gone and nothing proves it dead",
	draining: "it is about to leave",
	open:     "its breaker is open, calls failed",
	leaving:  "it is about to leave and its breaker is open",
}
