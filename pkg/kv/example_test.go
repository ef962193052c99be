package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func Example() {
	nc, stop := exampleServer()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	registry, err := kv.Open(ctx, nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := registry.Announce(events.Instance{
		Service: "user", ID: "user-7f3a", Endpoints: map[string]string{events.HTTP: "10.0.0.5:8080"},
		Location: topology.Location{Region: "us-east-1", Zone: "us-east-1a"},
	}, kv.AnnounceOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}

	watching, seen := context.WithCancel(ctx)
	defer seen()
	_ = registry.Watch(watching, "user", func(s events.Snapshot) {
		for _, e := range s.Entries {
			fmt.Println(e.ID, "in", e.Location.Zone, "at", e.Endpoints[events.HTTP])
			seen()
		}
	})
	if err := a.Leave(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(a.State().Phase)
	// Output:
	// user-7f3a in us-east-1a at 10.0.0.5:8080
	// left
}

// A service that announces itself, and the order of its shutdown: first it leaves,
// while it still serves; then the server ends, and the connection last.
func ExampleAnnouncement_Leave() {
	nc, stop := exampleServer()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// Serve, and count the calls that are in flight.
	var inFlight atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inFlight.Add(1)
		defer inFlight.Add(-1)
		fmt.Fprintln(w, "hello")
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()

	// Announce. The location is PROXIMA_REGION and PROXIMA_ZONE.
	registry, err := kv.Open(ctx, nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := registry.Announce(events.Instance{
		Service: "greeter", ID: "greeter-1", Endpoints: map[string]string{events.HTTP: listener.Addr().String()},
	}, kv.AnnounceOptions{
		Check:    func(context.Context) error { return nil }, // of the instance, not of what it depends on
		Drain:    10 * time.Second,
		InFlight: func() int { return int(inFlight.Load()) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := a.Ready(ctx); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("listed:", a.State().Phase)

	// On SIGTERM:
	fmt.Println("leave:", a.Leave(ctx))          // drains: callers stop picking it
	fmt.Println("shut down:", srv.Shutdown(ctx)) // no call is lost
	fmt.Println("served:", errors.Is(<-served, http.ErrServerClosed))
	stop() // the connection
	// Output:
	// listed: registered
	// leave: <nil>
	// shut down: <nil>
	// served: true
}

// exampleServer is a NATS server of our own; yours runs elsewhere.
func exampleServer() (*nats.Conn, func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	ns, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		panic(err)
	}
	ns.Start()
	nc, err := nats.Connect("", nats.InProcessServer(ns), nats.MaxReconnects(-1))
	if err != nil {
		panic(err)
	}
	return nc, func() {
		nc.Close()
		natstest.Stop(ns)
		_ = os.RemoveAll(dir)
	}
}
