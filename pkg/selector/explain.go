package selector

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/route"
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
	// Where is the subset that the explanation is about, empty for all instances, and Rule
	// what decided that: "request", "override x-version: 2", "split version=2 at 10 %",
	// "where version>=1.4". A call of which chance decides is explained as one that is in no
	// split.
	Where string `json:"where,omitempty"`
	Rule  string `json:"rule,omitempty"`
	// FellBack is set when none of the subset is usable, and the fallback is to take any
	// instance: circles and instances are those of all then.
	FellBack bool `json:"fell_back,omitempty"`
	// Policy is what operators say about calls to the service, nil if nothing.
	Policy *PolicyInUse `json:"policy,omitempty"`
	// Bulkhead is what bounds the calls in flight, nil if nothing does.
	Bulkhead *BulkheadInUse `json:"bulkhead,omitempty"`
	// Panic is set while fewer than half of the instances that want calls are usable,
	// so that others fill in.
	Panic bool `json:"panic"`
	// Circles that have instances, in the order in which they are tried.
	Circles []Circle `json:"circles"`
	// Instances in the order in which they would be tried: usable ones first,
	// nearest first.
	Instances []Candidate `json:"instances"`
}

// PolicyInUse is the policy that holds for a service.
type PolicyInUse struct {
	Revision        uint64 `json:"revision,omitempty"`         // of the policy of the service
	DefaultRevision uint64 `json:"default_revision,omitempty"` // of the policy for all services
	Error           string `json:"error,omitempty"`            // why the newest one is not used
	// Rules are its overrides, splits and where, in the order in which they are tried.
	Rules []PolicyRule `json:"rules,omitempty"`
}

// BulkheadInUse is the [Bulkhead] of a service, and how full it is. The limit of each
// instance stands in its [Standing].
type BulkheadInUse struct {
	Adaptive   bool `json:"adaptive,omitempty"`    // the limits of instances follow durations
	PerService int  `json:"per_service,omitempty"` // calls that may be in flight to all instances together; 0: any number
	InFlight   int  `json:"in_flight"`             // to all instances
	Queue      int  `json:"queue,omitempty"`       // calls that may wait
	Waiting    int  `json:"waiting"`               // that wait now
}

func (r *rules) bulkheadInUse() *BulkheadInUse {
	b, svc := r.bulkhead, r.svc
	if b == nil {
		return nil
	}
	return &BulkheadInUse{b.Adaptive, b.PerService, int(svc.places.whole.InFlight()), b.Queue, svc.places.queue.Waiting()}
}

// PolicyRule is one rule of a policy.
type PolicyRule struct {
	Rule      string `json:"rule"`
	Where     string `json:"where"`
	Instances int    `json:"instances"` // in the subset
	Usable    int    `json:"usable"`    // of these, by their state alone
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
	Limit          int     `json:"limit,omitempty"`          // of calls in flight, now; 0: there is none
	Full           bool    `json:"full,omitempty"`           // as many are in flight, so others are picked
	Picks          uint64  `json:"picks"`                    // by this selector, since it is listed
	CallMS         float64 `json:"call_ms"`                  // average duration of its calls, 0 if not known
	Near           bool    `json:"near"`                     // in the near set that picks choose from now
	OutsideSubset  bool    `json:"outside_subset,omitempty"` // it does not match Where
	Reason         string  `json:"reason"`                   // why it is picked or not
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

// peek returns where a call would go, which is not made.
func (r *rules) peek(ask *Request) (*target, error) {
	switch {
	case ask.Where != "":
		return r.asked(ask.Where)
	case r.plan != nil:
		if i := r.plan.Peek(ask.Header); i != route.None {
			return r.targets[i], nil
		}
	}
	return nil, nil
}

// inUse is the policy of which the rules are made.
func (r *rules) inUse() *PolicyInUse {
	c := &r.current
	if c.Default.Revision == 0 && c.Service.Revision == 0 && c.Default.Policy == nil && c.Service.Policy == nil {
		return nil
	}
	p := &PolicyInUse{Revision: c.Service.Revision, DefaultRevision: c.Default.Revision}
	if err := cmp.Or(c.Service.Err, c.Default.Err); err != nil {
		p.Error = err.Error()
	}
	r.svc.mu.Lock()
	defer r.svc.mu.Unlock()
	for _, t := range r.targets {
		rule := PolicyRule{Rule: t.rule, Where: t.expr.String()}
		for i := range r.svc.members.list {
			if m := &r.svc.members.list[i]; t.expr.Matches(m.In) {
				if rule.Instances++; m.State == table.Usable {
					rule.Usable++
				}
			}
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

func (v *vantage) explain(protocol string) Explanation {
	svc := v.rules.svc
	e := Explanation{Service: svc.name, From: v.builder.Place.String(), Strategy: v.kind.String()}
	svc.mu.Lock()
	e.Stale, e.StaleSeconds = svc.members.stale, secondsSince(svc.since)
	svc.members.refresh()
	ex := v.builder.Explain(v.roster(), svc.Now())
	svc.mu.Unlock()

	e.Panic = ex.Panicking
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
		Limit:          int(s.Limit()),
		Full:           s.Full(),
		Picks:          s.Picks(),
		CallMS:         table.Milliseconds(s.Average()),
		Near:           near,
		OutsideSubset:  s.State() == table.Unmatched,
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
