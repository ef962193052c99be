package router

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	keepAlive    = 15 * time.Second // between comments on a quiet stream
	writeTimeout = 10 * time.Second // for a reader that takes nothing
)

// streamChanges answers GET /v1/events[?service=name]: what is listed, then
// every change, as server-sent events whose name is the kind and whose data is
// the [Change] as JSON.
func (r *Router) streamChanges(w http.ResponseWriter, req *http.Request) {
	service := req.URL.Query().Get("service")
	if service != "" {
		if err := events.ValidateService(service); err != nil {
			writeError(w, err)
			return
		}
	}
	if err := r.ready(); err != nil {
		writeError(w, err)
		return
	}
	select {
	case r.streams <- struct{}{}:
		defer func() { <-r.streams }()
	default:
		writeError(w, errBusy)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // for proxies that would collect events
	w.WriteHeader(http.StatusOK)

	g, ctx := errgroup.WithContext(req.Context())
	changes := make(chan directory.Change)
	g.Go(func() error {
		return r.directory.Changes(ctx, r.nc, service, func(c directory.Change) error {
			select {
			case changes <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error { return r.writeChanges(ctx, w, changes) })
	_ = g.Wait() // the caller has gone, or the router stops
}

func (r *Router) writeChanges(ctx context.Context, w http.ResponseWriter, changes <-chan directory.Change) error {
	out := http.NewResponseController(w)
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		if err := out.Flush(); err != nil {
			return err
		}
		text := ":\n\n"
		select {
		case c := <-changes:
			data, err := json.Marshal(c)
			if err != nil {
				return err
			}
			text = fmt.Sprintf("event: %s\ndata: %s\n\n", c.Kind, data)
		case <-alive.C:
		case <-r.stopping:
			return errStopping
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := out.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return err
		}
	}
}
