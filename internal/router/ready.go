package router

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

const (
	// checkEvery is the time between two looks at the registry: /readyz is no older.
	checkEvery = 2 * time.Second
	// brief is how long writes may fail before it is logged: an election of a new leader
	// takes 4 to 9 s.
	brief = 10 * time.Second
)

// health looks at the registry every few seconds, whether clients use it or not. It is
// safe for concurrent use.
type health struct {
	registry interface {
		Check(ctx context.Context) kv.Health
	}
	store func() error
	log   *slog.Logger

	mu    sync.Mutex // guards what follows
	last  kv.Health
	since time.Time // since when nothing can be written; zero: it can
	told  bool      // it was logged
}

// watch looks until ctx ends.
func (h *health) watch(ctx context.Context) {
	for ctx.Err() == nil {
		found := h.registry.Check(ctx)
		if ctx.Err() != nil {
			return
		}
		if h.store != nil {
			found.WriteErr = cmp.Or(h.store(), found.WriteErr)
		}
		h.note(found)
		select {
		case <-ctx.Done():
		case <-time.After(checkEvery):
		}
	}
}

func (h *health) note(found kv.Health) {
	h.mu.Lock()
	h.last = found
	var log func()
	switch {
	case found.WriteErr == nil:
		if h.told {
			log = func() { h.log.Info("registrations and heartbeats are stored again") }
		}
		h.since, h.told = time.Time{}, false
	case h.since.IsZero():
		h.since = time.Now()
	case !h.told && time.Since(h.since) > brief:
		h.told = true
		log = func() {
			h.log.Error("registrations and heartbeats cannot be stored: instances that register here lose their leases", "error", found.WriteErr)
		}
	}
	h.mu.Unlock()
	if log != nil {
		log()
	}
}

func (h *health) now() kv.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// readiness answers GET /readyz: a router is ready when it has read the registry.
// With a stale view it still works, so it stays ready; it does so when registrations
// cannot be stored.
type readiness struct {
	Ready    bool   `json:"ready"`
	Stale    bool   `json:"stale"`
	Services int    `json:"services"`
	Writable bool   `json:"writable"` // registrations and heartbeats can be stored
	Reason   string `json:"reason,omitempty"`
}

func (r *Router) readyz(w http.ResponseWriter, _ *http.Request) {
	h := r.health.now()
	connected := r.nc.IsConnected()
	answer := readiness{
		Ready: true, Stale: r.directory.IsStale() || !connected || h.Err != nil, Services: len(r.directory.All()),
		Writable: connected && h.WriteErr == nil,
	}
	status := http.StatusOK
	switch err := r.ready(); {
	case err != nil:
		status, answer.Ready, answer.Reason = http.StatusServiceUnavailable, false, err.Error()
	case h.Err != nil:
		answer.Reason = h.Err.Error()
	case h.WriteErr != nil:
		answer.Reason = h.WriteErr.Error()
	case !connected:
		answer.Reason = "not connected to NATS"
	}
	writeJSON(w, status, answer)
}
