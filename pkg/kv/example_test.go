package kv_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
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
