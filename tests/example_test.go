package tests

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/daemon/embedded"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// hello is what README.md shows, to the letter.
func hello(ctx context.Context, url string) error {
	nc, err := kv.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	sel, err := selector.New(ctx, nc, selector.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = sel.Close() }()
	client := &http.Client{Transport: proximahttp.New(sel, proximahttp.Options{})}
	resp, err := client.Get("http://hello/?name=Ada") // the nearest instance of "hello" that works
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	return err
}

// A service that announces itself, and a caller that finds it.
func Example() {
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	server, err := embedded.Start(ctx, embedded.Options{Listen: "127.0.0.1:0", Logger: quiet})
	if err != nil {
		panic(err)
	}
	defer func() { _ = server.Close() }()

	// The service.
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello ", r.URL.Query().Get("name"), " from hello-1")
	}))
	defer service.Close()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	registry, err := kv.Open(ctx, nc, kv.Options{Logger: quiet})
	if err != nil {
		panic(err)
	}
	announcement, err := registry.Announce(events.Instance{
		ID: "hello-1", Service: "hello",
		Endpoints: map[string]string{events.HTTP: service.Listener.Addr().String()},
	}, kv.AnnounceOptions{Logger: quiet})
	if err != nil {
		panic(err)
	}
	defer func() { _ = announcement.Leave(ctx) }()
	if err := announcement.Ready(ctx); err != nil {
		panic(err)
	}

	// The caller.
	if err := hello(ctx, server.URL()); err != nil {
		panic(err)
	}
	// Output: hello Ada from hello-1
}
