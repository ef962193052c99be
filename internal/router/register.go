package router

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/pkg/events"
)

// lifetime is how a client keeps its lease.
type lifetime struct {
	HeartbeatEvery string `json:"heartbeat_every"`
}

// registered is the answer to a registration: the instance as it is listed, and
// how often heartbeats are due.
type registered struct{ registrar.Registration }

// MarshalJSON writes the fields of the instance first.
func (r registered) MarshalJSON() ([]byte, error) {
	return r.MarshalWith(lifetime{duration(r.HeartbeatEvery)})
}

// duration writes whole milliseconds: every parser of durations reads them.
func duration(d time.Duration) string { return d.Truncate(time.Millisecond).String() }

// registration answers at the doors that need a registrar.
type registration struct{ registrar *registrar.Registrar }

func (d registration) register(req *http.Request) (reply, error) {
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
	done, err := d.registrar.Register(req.Context(), in)
	if err != nil {
		return reply{service: in.Service}, err
	}
	status := http.StatusOK
	if done.Created {
		status = http.StatusCreated
	}
	return reply{in.Service, status, registered{done}}, nil
}

func (d registration) heartbeat(req *http.Request) (reply, error) {
	var ref registrar.Ref
	if err := readBody(req, &ref); err != nil {
		return reply{}, err
	}
	every, err := d.registrar.Heartbeat(req.Context(), ref)
	return reply{service: ref.Service, body: struct {
		registrar.Ref
		lifetime
	}{ref, lifetime{duration(every)}}}, err
}

func (d registration) deregister(req *http.Request) (reply, error) {
	var ref registrar.Ref
	if err := readBody(req, &ref); err != nil {
		return reply{}, err
	}
	return reply{service: ref.Service, body: ref}, d.registrar.Deregister(req.Context(), ref)
}
