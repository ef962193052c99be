package selector

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Explanation says of every instance of a service whether it would be picked,
// and why. Its JSON is what the router's doors answer.
type Explanation struct {
	Service string `json:"service"`
	Stale   bool   `json:"stale"` // the registry cannot be reached: this is the last that was known
	// StaleSeconds is how long ago the registry was last heard, if Stale is
	// set and it is known.
	StaleSeconds float64 `json:"stale_seconds,omitempty"`
	From         string  `json:"from"` // the place that is to be near: region/zone
	Strategy     string  `json:"strategy"`
	// Panic says that fewer than half of the instances that want calls are
	// usable, so that the best of the bad are used beside them.
	Panic bool `json:"panic"`
	// Circles that have instances, in the order in which they are tried.
	Circles []CircleState `json:"circles"`
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
	DistanceSource string  `json:"distance_source"` // measured, shared, predicted or assumed
	Breaker        string  `json:"breaker"`         // closed, half-open or open
	Suspect        bool    `json:"suspect"`
	Evacuated      bool    `json:"evacuated"` // an operator has ordered its place to be left
	Dead           bool    `json:"dead"`      // probes find nobody there, and it is suspect or the registry out of reach
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
	ramp    float32 // the share of its weight that it gets for its age
	refused bool    // its breaker is open for that
	fit     float32 // its score by its beat, for LoadAware
	Candidate
}

func (v *view) explain(protocol string) Explanation {
	svc, opts := v.svc, &v.svc.sel.opts
	e := Explanation{Service: svc.name, From: v.place.String(), Strategy: string(opts.Strategy)}
	svc.mu.Lock()
	e.Stale, e.StaleSeconds = svc.stale, secondsSince(svc.since)
	for i := range svc.members {
		svc.members[i].look()
	}
	t := v.build(svc.members, 0)
	all := make([]ranked, len(svc.members))
	for i := range svc.members {
		all[i] = v.candidate(t, &svc.members[i], svc.verdicts[i])
	}
	e.Panic, e.Circles = t.panics, v.circles(t)
	svc.mu.Unlock()

	slices.SortStableFunc(all, func(a, b ranked) int {
		return cmp.Or(
			cmp.Compare(a.as, b.as),
			cmp.Compare(t.rank[a.circle], t.rank[b.circle]),
			cmp.Compare(a.distance, b.distance),
			cmp.Compare(a.ID, b.ID))
	})
	e.Instances = make([]Candidate, len(all))
	for i, c := range all {
		c.Near, c.Reason = v.reason(t, &c, protocol)
		e.Instances[i] = c.Candidate
	}
	return e
}

// candidate is a member as a table has it. The service is locked.
func (v *view) candidate(t *table, m *member, vd verdict) ranked {
	source := m.node.distance().Source
	if vd.known == assumed {
		source = latency.SourceAssumed
	}
	if vd.as < notReady {
		vd.distance = vd.from(&t.circles[t.index(vd.as, vd.circle)])
	}
	_, refused := m.breaker.Opened()
	return ranked{vd, v.svc.sel.ramp(m.born, t.at), refused, m.fit(ticks(t.at)), Candidate{*m.in, Standing{
		Circle:         v.svc.sel.opts.Levels.Name(int(vd.circle)),
		DistanceMS:     inMilliseconds(vd.distance),
		DistanceSource: string(source),
		Breaker:        m.breaker.State().String(),
		Suspect:        m.suspect,
		Evacuated:      m.evacuated,
		Dead:           vd.condition == dead,
		InFlight:       int(m.inFlight()),
		Picks:          m.picks(),
		CallMS:         inMilliseconds(m.average()),
	}}}
}

// secondsSince is 0 for a time that is not known.
func secondsSince(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return rounded(time.Since(t).Seconds(), 3)
}

func inMilliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
