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
	writeTimeout = 10 * time.Second // for a caller that does not read
	maxStreams   = 256              // at once
)

// changeStreams answers GET /v1/events.
type changeStreams struct {
	directory *directory.Directory
	ready     func() error
	closing   <-chan struct{} // closed when the router takes no more calls
	open      chan struct{}   // one token per stream
}

// ServeHTTP sends what is listed, then every change, of all services or of the
// one in the parameter service. Each is a server-sent event whose name is the
// kind, and whose data is the [directory.Change] as JSON.
func (s *changeStreams) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	q, err := queryOf(req, "service")
	if err != nil {
		writeError(w, err)
		return
	}
	service := q.Get("service")
	if service != "" {
		if err := events.ValidateService(service); err != nil {
			writeError(w, err)
			return
		}
	}
	if err := s.ready(); err != nil {
		writeError(w, err)
		return
	}
	select {
	case s.open <- struct{}{}:
		defer func() { <-s.open }()
	default:
		writeError(w, errBusy)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // tells proxies not to buffer
	w.WriteHeader(http.StatusOK)

	g, ctx := errgroup.WithContext(req.Context())
	changes := make(chan directory.Change)
	g.Go(func() error {
		return s.directory.Changes(ctx, service, func(c directory.Change) error {
			select {
			case changes <- c:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	g.Go(func() error { return s.write(ctx, w, changes) })
	_ = g.Wait() // ends when the caller goes away or the router stops
}

func (s *changeStreams) write(ctx context.Context, w http.ResponseWriter, changes <-chan directory.Change) error {
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
		case <-s.closing:
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
