package router

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// lifetime tells a client how to keep its lease.
type lifetime struct {
	HeartbeatEvery string `json:"heartbeat_every"`
}

// registered is the answer to a registration: the instance as it is listed,
// and beside it how often heartbeats are due.
type registered struct{ registrar.Registration }

// MarshalJSON writes the fields side by side.
func (r registered) MarshalJSON() ([]byte, error) {
	return beside(r.Instance, lifetime{duration(r.HeartbeatEvery)})
}

// duration is whole milliseconds, which every parser of durations reads.
func duration(d time.Duration) string { return d.Truncate(time.Millisecond).String() }

func (r *Router) register(req *http.Request) (reply, error) {
	data, err := readAll(req)
	if err != nil {
		return reply{}, err
	}
	var in events.Instance
	if err := json.Unmarshal(data, &in); err != nil {
		if is[*events.FieldError](err) {
			return reply{}, err
		}
		return reply{}, &badRequest{"body", string(data), "want an instance as JSON: " + err.Error()}
	}
	registration, err := r.registrar.Register(req.Context(), in)
	if err != nil {
		return reply{service: in.Service}, err
	}
	status := http.StatusOK
	if registration.Created {
		status = http.StatusCreated
	}
	return reply{in.Service, status, registered{registration}}, nil
}

func (r *Router) heartbeat(req *http.Request) (reply, error) {
	var ref registrar.Ref
	if err := readBody(req, &ref); err != nil {
		return reply{}, err
	}
	every, err := r.registrar.Heartbeat(req.Context(), ref)
	return reply{service: ref.Service, body: struct {
		registrar.Ref
		lifetime
	}{ref, lifetime{duration(every)}}}, err
}

func (r *Router) deregister(req *http.Request) (reply, error) {
	var ref registrar.Ref
	if err := readBody(req, &ref); err != nil {
		return reply{}, err
	}
	return reply{service: ref.Service, body: ref}, r.registrar.Deregister(req.Context(), ref)
}
