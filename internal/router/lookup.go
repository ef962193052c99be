package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Services answers GET /v1/services.
type Services struct {
	Services []Service `json:"services"` // ordered by name
}

// Service is one of [Services].
type Service struct {
	Name      string `json:"name"`
	Instances int    `json:"instances"` // listed
	Up        int    `json:"up"`        // of these, with status up and no suspects
	Stale     bool   `json:"stale"`     // the registry is out of reach: this is the last known list
	// StaleSeconds is the time since the registry was last reached, if Stale is
	// set and it is known.
	StaleSeconds float64 `json:"stale_seconds,omitempty"`
}

// Summarize counts the instances of snapshots.
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

// Instances answers GET /v1/services/{service} and proxima.resolve.<service>.
type Instances struct {
	Service      string     `json:"service"`
	Stale        bool       `json:"stale"`
	StaleSeconds float64    `json:"stale_seconds,omitempty"` // see [Service]
	Instances    []Instance `json:"instances"`               // nearest first, unusable ones last
	// Truncated is set if the farthest are left out, as a NATS message cannot
	// hold them all.
	Truncated bool `json:"truncated,omitempty"`
}

// Instance is one of [Instances]: a candidate, written as JSON without what only
// explains a pick.
type Instance struct{ selector.Candidate }

// MarshalJSON writes the fields of the instance, and those by which a caller can
// choose.
func (i Instance) MarshalJSON() ([]byte, error) {
	return i.MarshalWith(struct {
		Circle         string  `json:"circle"`
		DistanceMS     float64 `json:"distance_ms"`
		DistanceSource string  `json:"distance_source"`
		Breaker        string  `json:"breaker"`
		Suspect        bool    `json:"suspect"`
		Evacuated      bool    `json:"evacuated"`
	}{i.Circle, i.DistanceMS, i.DistanceSource, i.Breaker, i.Suspect, i.Evacuated})
}

// List is an explanation without its reasons. It leaves out instances that calls are not
// for, and dead ones, which are in the registry only because many leases ended together.
func List(e selector.Explanation) Instances {
	list := Instances{Service: e.Service, Stale: e.Stale, StaleSeconds: e.StaleSeconds, Instances: make([]Instance, 0, len(e.Instances))}
	for _, c := range e.Instances {
		if !c.Dead && !c.OutsideSubset {
			list.Instances = append(list.Instances, Instance{c})
		}
	}
	return list
}

// lookup answers which instances are listed, and which one a pick would choose.
type lookup struct {
	directory *directory.Directory
	selector  *selector.Selector

	maxPayload func() int64 // of a NATS message
}

func (l *lookup) services(req *http.Request) (reply, error) {
	if _, err := queryOf(req); err != nil {
		return reply{}, err
	}
	if !l.directory.IsComplete() {
		return reply{}, directory.ErrIncomplete
	}
	return reply{body: Summarize(l.directory.All())}, nil
}

func (l *lookup) instances(req *http.Request) (reply, error) {
	service := req.PathValue("service")
	q, err := queryOf(req, "from", "where", "limit")
	if err != nil {
		return reply{}, err
	}
	limit, err := parseLimit("limit", q.Get("limit"))
	if err != nil {
		return reply{}, err
	}
	e, err := l.explainHTTP(req, q)
	if err != nil {
		return reply{service: service}, err
	}
	list := List(e)
	if limit > 0 && limit < len(list.Instances) {
		list.Instances = list.Instances[:limit]
	}
	return reply{service: service, body: list}, nil
}

func (l *lookup) explain(req *http.Request) (reply, error) {
	q, err := queryOf(req, "from", "where")
	if err != nil {
		return reply{}, err
	}
	e, err := l.explainHTTP(req, q)
	return reply{service: req.PathValue("service"), body: e}, err
}

func (l *lookup) explainHTTP(req *http.Request, q url.Values) (selector.Explanation, error) {
	from, err := parseFrom("from", q.Get("from"))
	if err != nil {
		return selector.Explanation{}, err
	}
	where := q.Get("where")
	if where == "" {
		where = req.Header.Get(headerWhere)
	}
	return l.explanation(req.Context(), selector.Request{Service: req.PathValue("service"), From: from, Where: where, Header: req.Header.Get})
}

// explanation asks the selector about a listed service. Others are refused
// before: the selector would begin to watch every name that a caller invents.
func (l *lookup) explanation(ctx context.Context, r selector.Request) (selector.Explanation, error) {
	if _, err := l.protocols(r.Service); err != nil {
		return selector.Explanation{}, err
	}
	return l.selector.Explain(ctx, r)
}

// explanationNATS is explanation for a request by NATS.
func (l *lookup) explanationNATS(ctx context.Context, c *call) (selector.Explanation, error) {
	from, err := parseFrom(headerFrom, c.header.Get(headerFrom))
	if err != nil {
		return selector.Explanation{}, err
	}
	return l.explanation(ctx, selector.Request{Service: c.service, From: from, Where: c.header.Get(headerWhere), Header: http.Header(c.header).Get})
}

// protocols returns which of wanted the instances of the service have.
func (l *lookup) protocols(service string, wanted ...string) ([]string, error) {
	if err := events.ValidateService(service); err != nil {
		return nil, err
	}
	if !l.directory.IsComplete() {
		return nil, directory.ErrIncomplete
	}
	have, known := l.directory.Protocols(service, wanted...)
	if !known {
		return nil, fmt.Errorf("%w %q", selector.ErrUnknownService, service)
	}
	return have, nil
}

func (l *lookup) resolveNATS(ctx context.Context, c *call) (*nats.Msg, error) {
	e, err := l.explanationNATS(ctx, c)
	if err != nil {
		return nil, err
	}
	list := List(e)
	all := len(list.Instances)
	return l.fit(all, func(n int) any {
		list.Instances, list.Truncated = list.Instances[:n], n < all
		return list
	})
}

func (l *lookup) explainNATS(ctx context.Context, c *call) (*nats.Msg, error) {
	e, err := l.explanationNATS(ctx, c)
	if err != nil {
		return nil, err
	}
	return l.fit(len(e.Instances), func(n int) any {
		e.Instances = e.Instances[:n]
		return e
	})
}

// fit makes an answer of as many of n instances, nearest first, as a NATS message
// can hold.
func (l *lookup) fit(n int, body func(n int) any) (*nats.Msg, error) {
	const headers = 4 << 10
	most := int(l.maxPayload()) - headers
	for {
		data, err := json.Marshal(body(n))
		if err != nil {
			return nil, fmt.Errorf("router: write the answer: %w", err)
		}
		if len(data) <= most || n == 0 {
			return &nats.Msg{Data: data, Header: nats.Header{"Content-Type": {"application/json"}}}, nil
		}
		n = min(n-1, n*most/len(data))
	}
}
