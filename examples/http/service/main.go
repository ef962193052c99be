// An HTTP service that announces itself, and leaves without failing a call:
//
//	go run ./cmd/router serve             # brings a NATS server, if you have none
//	go run ./examples/http/service        # one or more, in other terminals
//	go run ./examples/http/caller
//
// PROXIMA_NATS_URL names another NATS server, PROXIMA_REGION and PROXIMA_ZONE
// where the service runs.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, cmp.Or(os.Getenv("PROXIMA_NATS_URL"), nats.DefaultURL)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var calls gauge
	server := &http.Server{Handler: calls.count(http.HandlerFunc(hello))}
	go func() { _ = server.Serve(listener) }() // until Shutdown

	nc, err := kv.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	registry, err := kv.Open(ctx, nc, kv.Options{})
	if err != nil {
		return err
	}
	announcement, err := registry.Announce(events.Instance{
		Service:   "hello",
		ID:        fmt.Sprint("hello-", os.Getpid()),
		Endpoints: map[string]string{events.HTTP: listener.Addr().String()},
	}, kv.AnnounceOptions{
		Check:    func(context.Context) error { return nil }, // an error: not ready, no calls
		Drain:    5 * time.Second,                            // at most: how long calls may take to end
		InFlight: calls.now,                                  // the drain ends when it is 0
	})
	if err != nil {
		return err
	}

	<-ctx.Done()
	// Leave: callers stop picking this instance. Shutdown: running calls end. NATS closes last.
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return errors.Join(announcement.Leave(bye), server.Shutdown(bye))
}

func hello(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello %s from process %d\n", r.URL.Query().Get("name"), os.Getpid())
}
