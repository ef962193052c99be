package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// Leases are short, so that the demo shows the end of some.
const (
	ttl   = 2 * time.Second
	drain = 500 * time.Millisecond
	grace = 5 * time.Second // for the leave, and for calls under way at the end
)

// job is the argument of the process of an instance, as JSON.
type job struct {
	member
	NATS string `json:"nats"`
}

// Instance is the program of one instance: it serves HTTP on a free port, announces
// itself, and drains when ctx ends. Text is the job as JSON. At the end of stdin the
// process exits at once: the demo that has started it is gone.
func Instance(ctx context.Context, text string, stdin io.Reader) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("demo: only the demo starts an instance: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		os.Exit(1)
	}()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("demo: instance %s: %w", j.ID, err)
	}

	nc, err := kv.Connect(j.NATS, nats.Name(j.ID))
	if err != nil {
		return fmt.Errorf("demo: instance %s: %w", j.ID, err)
	}
	defer nc.Close()
	quiet := slog.New(slog.DiscardHandler)
	registry, err := kv.Open(ctx, nc, kv.Options{Logger: quiet})
	if err != nil {
		return err
	}
	announcement, err := registry.Announce(events.Instance{
		ID: j.ID, Service: service, Location: j.Location, TTL: ttl,
		Endpoints: map[string]string{events.HTTP: listener.Addr().String()},
	}, kv.AnnounceOptions{Drain: drain, Logger: quiet})
	if err != nil {
		return err
	}

	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		// It serves until it has left: no call is lost.
		leaving, cancel := context.WithTimeout(serving, grace)
		defer cancel()
		_ = announcement.Leave(leaving) // its lease ends by itself
		stop()
	})()
	return daemon.Serve(serving, daemon.NewHTTPServer(j.member, quiet), listener, daemon.Ending{Grace: grace})
}

// ServeHTTP answers with the id and the zone of the instance, after half a
// millisecond of simulated work.
func (m member) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(500 * time.Microsecond)
	fmt.Fprintf(w, "%s in %s\n", m.ID, m.Location.Zone)
}
