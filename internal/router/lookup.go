package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Services answers GET /v1/services.
type Services struct {
	Services []Service `json:"services"` // ordered by name
}

// Service is one of [Services].
type Service struct {
	Name      string `json:"name"`
	Instances int    `json:"instances"` // listed
	Up        int    `json:"up"`        // of them, those that want calls
	Stale     bool   `json:"stale"`     // the registry cannot be reached: this is the last that was known
	// StaleSeconds is how long ago the registry was last heard, if Stale is
	// set and it is known.
	StaleSeconds float64 `json:"stale_seconds,omitempty"`
}

// Summarize counts what snapshots list.
func Summarize(snapshots []events.Snapshot) Services {
	list := Services{Services: make([]Service, 0, len(snapshots))}
	for _, s := range snapshots {
		svc := Service{Name: s.Service, Instances: len(s.Entries), Stale: s.Stale}
		if !s.StaleSince.IsZero() {
			svc.StaleSeconds = time.Since(s.StaleSince).Round(time.Millisecond).Seconds()
		}
		for _, e := range s.Entries {
			if e.Status == events.Up && !e.Suspect {
				svc.Up++
			}
		}
		list.Services = append(list.Services, svc)
	}
	return list
}

func (r *Router) listServices(*http.Request) (reply, error) {
	if !r.directory.IsWhole() {
		return reply{}, directory.ErrIncomplete
	}
	return reply{body: Summarize(r.directory.All())}, nil
}

// Instances answers GET /v1/services/{service} and proxima.resolve.<service>.
type Instances struct {
	Service      string     `json:"service"`
	Stale        bool       `json:"stale"`
	StaleSeconds float64    `json:"stale_seconds,omitempty"` // see [Service]
	Instances    []Instance `json:"instances"`               // nearest first, those that take no calls last
	// Truncated says that the farthest were left out: all of them do not fit
	// into a message.
	Truncated bool `json:"truncated,omitempty"`
}

// Instance is one of [Instances]. In JSON the fields stand beside those of the
// instance.
type Instance struct {
	events.Instance
	seen
}

type seen struct {
	Circle         string  `json:"circle"`
	DistanceMS     float64 `json:"distance_ms"`
	DistanceSource string  `json:"distance_source"`
	Breaker        string  `json:"breaker"`
	Suspect        bool    `json:"suspect"`
	Evacuated      bool    `json:"evacuated"`
}

// MarshalJSON writes the fields side by side.
func (i Instance) MarshalJSON() ([]byte, error) { return beside(i.Instance, i.seen) }

// UnmarshalJSON reads what MarshalJSON writes.
func (i *Instance) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &i.Instance); err != nil {
		return err
	}
	return json.Unmarshal(data, &i.seen)
}

// Listing is what the registry says of a service, before anybody weighs it up.
type Listing struct {
	Service   string           `json:"service"`
	Instances []ListedInstance `json:"instances"` // by place and id
}

// ListedInstance is one instance of a [Listing]. In JSON the fields stand beside those of
// the instance.
type ListedInstance struct {
	events.Instance
	marks
}

type marks struct {
	Suspect   bool `json:"suspect"`
	Evacuated bool `json:"evacuated"`
}

// MarshalJSON writes the fields side by side.
func (l ListedInstance) MarshalJSON() ([]byte, error) {
	return beside(l.Instance, l.marks)
}

// NewListing is the listing of a snapshot.
func NewListing(s events.Snapshot) Listing {
	l := Listing{Service: s.Service, Instances: make([]ListedInstance, 0, len(s.Entries))}
	for _, e := range s.Entries {
		l.Instances = append(l.Instances, ListedInstance{*e.Instance, marks{e.Suspect, e.Evacuated}})
	}
	return l
}

// List leaves out of an explanation what only people want to know: also
// instances that are dead, and listed only because many leases ended together.
func List(e selector.Explanation) Instances {
	list := Instances{Service: e.Service, Stale: e.Stale, StaleSeconds: e.StaleSeconds, Instances: make([]Instance, 0, len(e.Instances))}
	for i := range e.Instances {
		c := &e.Instances[i]
		if c.Dead {
			continue
		}
		list.Instances = append(list.Instances, Instance{
			c.Instance,
			seen{c.Circle, c.DistanceMS, c.DistanceSource, c.Breaker, c.Suspect, c.Evacuated},
		})
	}
	return list
}

func (r *Router) listInstances(req *http.Request) (reply, error) {
	service := req.PathValue("service")
	limit, err := parseLimit("limit", req.URL.Query().Get("limit"))
	if err != nil {
		return reply{}, err
	}
	e, err := r.explainHTTP(req)
	if err != nil {
		return reply{service: service}, err
	}
	list := List(e)
	if limit > 0 && limit < len(list.Instances) {
		list.Instances = list.Instances[:limit]
	}
	return reply{service: service, body: list}, nil
}

func (r *Router) explain(req *http.Request) (reply, error) {
	e, err := r.explainHTTP(req)
	return reply{service: req.PathValue("service"), body: e}, err
}

func (r *Router) explainHTTP(req *http.Request) (selector.Explanation, error) {
	from, err := parseFrom("from", req.URL.Query().Get("from"))
	if err != nil {
		return selector.Explanation{}, err
	}
	return r.explanation(req.Context(), req.PathValue("service"), from)
}

// explanation is the selector's. Services that are not listed do not get as
// far: whoever asks for names at random shall not make us follow them.
func (r *Router) explanation(ctx context.Context, service string, from *topology.Location) (selector.Explanation, error) {
	if _, err := r.protocols(service); err != nil {
		return selector.Explanation{}, err
	}
	return r.selector.Explain(ctx, selector.Request{Service: service, From: from})
}

// protocols returns those of wanted that instances of the service have.
func (r *Router) protocols(service string, wanted ...string) ([]string, error) {
	if err := events.ValidateService(service); err != nil {
		return nil, err
	}
	if !r.directory.IsWhole() {
		return nil, directory.ErrIncomplete
	}
	have, known := r.directory.Protocols(service, wanted...)
	if !known {
		return nil, fmt.Errorf("%w %q", selector.ErrUnknownService, service)
	}
	return have, nil
}
