package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/registrar"
	"github.com/proxima-discovery/proxima/internal/strict"
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
type registration struct {
	registrar *registrar.Registrar
	// loopback reports whether the client may register loopback endpoints.
	loopback func(*http.Request) bool
}

// loopbackFrom reports whether what the client calls 127.0.0.1 is the same for this router
// and for the callers of its registry.
func (r *Router) loopbackFrom(client *http.Request) bool {
	return r.opts.AllowLoopback || !r.opts.NATSElsewhere && r.opts.Trust.Local(client)
}

func (d registration) register(req *http.Request) (reply, error) {
	data, err := readAll(req)
	if err != nil {
		return reply{}, err
	}
	if err := known(data, strict.Instance()); err != nil {
		return reply{}, err
	}
	var in events.Instance
	if err := json.Unmarshal(data, &in); err != nil {
		if is[*events.FieldError](err) {
			return reply{}, err
		}
		return reply{}, &badRequest{"body", string(data), "want an instance as JSON: " + err.Error()}
	}
	if protocol, address, found := in.LoopbackEndpoint(); found && !d.loopback(req) {
		return reply{service: in.Service}, &events.FieldError{
			Field: "endpoints." + protocol, Value: address,
			Rule: "callers on other machines cannot reach it: want an address of the instance's machine (or router serve --allow-loopback, if all callers run there)",
		}
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
	ref, err := readRef(req)
	if err != nil {
		return reply{}, err
	}
	every, err := d.registrar.Heartbeat(req.Context(), ref)
	return reply{service: ref.Service, body: struct {
		registrar.Ref
		lifetime
	}{ref, lifetime{duration(every)}}}, err
}

func (d registration) deregister(req *http.Request) (reply, error) {
	ref, err := readRef(req)
	if err != nil {
		return reply{}, err
	}
	return reply{service: ref.Service, body: ref}, d.registrar.Deregister(req.Context(), ref)
}

// readRef reads which instance is meant: from the path, or from the query, or from the
// body. Not every client can send a body with DELETE.
func readRef(req *http.Request) (registrar.Ref, error) {
	parameters := []string{"incarnation"}
	if req.PathValue("service") == "" {
		parameters = append(parameters, "service", "id")
	}
	q, err := queryOf(req, parameters...)
	if err != nil {
		return registrar.Ref{}, err
	}
	ref := registrar.Ref{Service: req.PathValue("service"), ID: req.PathValue("id"), Incarnation: q.Get("incarnation")}
	if ref.Service == "" {
		ref.Service, ref.ID = q.Get("service"), q.Get("id")
	}
	data, err := readAll(req)
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		if err == nil && ref == (registrar.Ref{}) {
			err = &badRequest{"body", "", `want {"service":"…","id":"…"}, or ?service=…&id=…`}
		}
		return ref, err
	}
	if err := known(data, strict.Fields{"service": nil, "id": nil, "incarnation": nil}); err != nil {
		return ref, err
	}
	var body registrar.Ref
	if err := json.Unmarshal(data, &body); err != nil {
		return ref, &badRequest{"body", string(data), "want JSON: " + err.Error()}
	}
	if ref != (registrar.Ref{}) && ref != body {
		return ref, &badRequest{"body", string(data), "it names another instance than the path or the query"}
	}
	return body, nil
}

// known refuses fields that nothing reads, and those that are there twice: they are typing
// errors.
func known(data []byte, fields strict.Fields) error {
	err := strict.Check(data, fields)
	if unknown, ok := errors.AsType[*strict.UnknownError](err); ok {
		return &badRequest{"body", unknown.Field, err.Error()}
	}
	if twice, ok := errors.AsType[*strict.RepeatedError](err); ok {
		return &badRequest{"body", twice.Field, err.Error()}
	}
	return nil
}
