// A caller of the service of examples/http/service: an ordinary http.Client
// whose URLs name a service instead of a machine.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, cmp.Or(os.Getenv("PROXIMA_NATS_URL"), nats.DefaultURL)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url string) error {
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
	client := &http.Client{
		Timeout:   5 * time.Second, // of a call with all its attempts
		Transport: proximahttp.New(sel, proximahttp.Options{}),
	}

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hello/?name=Ada", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	at, _ := proximahttp.AttemptFrom(resp.Request.Context())
	fmt.Printf("%s in circle %s, attempt %d: %s", at.ID, at.Circle, at.Number, body)
	return nil
}
