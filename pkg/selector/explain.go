package selector

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// Explanation lists all instances of a service, with the reason why each would be picked
// or not. A router answers GET /v1/explain/{service} with its JSON.
type Explanation struct {
	Service string `json:"service"`
	Stale   bool   `json:"stale"` // the registry is out of reach: this is the last known list
	// StaleSeconds is how long ago the registry was last heard, if Stale is
	// set and it is known.
	StaleSeconds float64 `json:"stale_seconds,omitempty"`
	From         string  `json:"from"` // the place that is to be near: region/zone
	Strategy     string  `json:"strategy"`
	// Panic is set while fewer than half of the instances that want calls are usable,
	// so that others fill in.
	Panic bool `json:"panic"`
	// Circles that have instances, in the order in which they are tried.
	Circles []Circle `json:"circles"`
	// Instances in the order in which they would be tried: usable ones first,
	// nearest first.
	Instances []Candidate `json:"instances"`
}

// Candidate is one instance in an [Explanation]. In JSON its fields stand beside those
// of the instance.
type Candidate struct {
	events.Instance `json:"-"`
	Standing
}

// Standing is what a selector knows about an instance.
type Standing struct {
	Circle         string  `json:"circle"`
	DistanceMS     float64 `json:"distance_ms"`     // the round trip
	DistanceSource string  `json:"distance_source"` // measured, shared, predicted or assumed
	Breaker        string  `json:"breaker"`         // closed, half-open or open
	Suspect        bool    `json:"suspect"`
	Evacuated      bool    `json:"evacuated"` // an operator evacuated its place
	Dead           bool    `json:"dead"`      // it does not answer probes, and is suspect or the registry is out of reach
	InFlight       int     `json:"in_flight"`
	Picks          uint64  `json:"picks"`   // by this selector, since it is listed
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

// Explain returns what a pick would see now. It waits for the first snapshot as Pick
// does. The error for a service without instances is [ErrUnknownService].
func (s *Selector) Explain(ctx context.Context, r Request) (Explanation, error) {
	if err := r.checkFrom(); err != nil {
		return Explanation{}, err
	}
	svc, err := s.service(r.Service)
	if err != nil {
		return Explanation{}, err
	}
	v := svc.vantage(&r)
	t := v.current()
	if t == nil {
		if v, t, err = s.await(ctx, svc, &r); err != nil {
			return Explanation{}, err
		}
	}
	svc.markActive() // its distances are asked for
	if t.Size == 0 {
		return Explanation{}, v.noInstance(t, &r)
	}
	e := v.explain(r.Protocol)
	if r.From != nil {
		e.From = r.From.String() // the vantage may be for several places
	}
	return e, nil
}

func (v *vantage) explain(protocol string) Explanation {
	svc := v.svc
	e := Explanation{Service: svc.name, From: v.builder.Place.String(), Strategy: svc.Kind.String()}
	svc.mu.Lock()
	e.Stale, e.StaleSeconds = svc.members.stale, secondsSince(svc.since)
	svc.members.refresh()
	ex := v.builder.Explain(svc.members.list, svc.Now())
	svc.mu.Unlock()

	e.Panic = ex.Panic
	for _, c := range ex.Circles {
		circle := circleOf(ex.Table, c.Index)
		circle.Share, circle.Demoted, circle.Load, circle.Note = rounded(c.Share, 4), c.Demoted, rounded(c.Load, 3), c.Note
		circle.BestMS, circle.DistanceSource = table.Milliseconds(c.Best), string(c.Source)
		e.Circles = append(e.Circles, circle)
	}
	ex.Sort()
	e.Instances = make([]Candidate, len(ex.Members))
	for i := range ex.Members {
		e.Instances[i] = candidate(ex, &ex.Members[i], protocol)
	}
	return e
}

// candidate is a member as a table uses it.
func candidate(e *table.Explanation, s *table.Standing, protocol string) Candidate {
	circle, distance := s.Place()
	near, why := e.Reason(s, protocol)
	return Candidate{*s.In, Standing{
		Circle:         e.Name(circle),
		DistanceMS:     table.Milliseconds(distance),
		DistanceSource: string(s.Source),
		Breaker:        s.Breaker.State().String(),
		Suspect:        s.Suspect,
		Evacuated:      s.Evacuated,
		Dead:           s.State() == table.Dead || s.State() == table.Gone,
		InFlight:       int(s.InFlight()),
		Picks:          s.Picks(),
		CallMS:         table.Milliseconds(s.Average()),
		Near:           near,
		Reason:         why,
	}}
}

// secondsSince returns 0 for the zero time.
func secondsSince(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return rounded(time.Since(t).Seconds(), 3)
}

func rounded(f float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(f*scale) / scale
}
