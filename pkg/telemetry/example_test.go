package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

func Example() {
	reader := sdkmetric.NewManualReader() // a program has an exporter here
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	metrics, err := telemetry.New(provider.Meter("example"))
	if err != nil {
		panic(err)
	}
	defer func() { _ = metrics.Close() }()

	ctx := context.Background()
	sel, err := selector.New(ctx, nil, selector.Options{
		Source:  selector.Static(events.Instance{Service: "user", ID: "user-1"}),
		Breaker: breaker.Settings{OnChange: metrics.OnBreaker},
	})
	if err != nil {
		panic(err)
	}
	defer func() { _ = sel.Close() }()
	defer metrics.Selector(sel)() // stops before sel is closed

	_ = sel.Do(ctx, "user", func(context.Context, *events.Instance) error { return nil })
	fmt.Println("picks:", sum(reader, "proxima_picks"))
	// Output: picks: 1
}

// sum is what an exporter would show.
func sum(reader sdkmetric.Reader, name string) (n int64) {
	var collected metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &collected)
	for _, m := range collected.ScopeMetrics[0].Metrics {
		if s, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
			for _, p := range s.DataPoints {
				n += p.Value
			}
		}
	}
	return n
}

// All hooks of a program that is a service and calls others.
func Example_allHooks() {
	_ = func(ctx context.Context, nc *nats.Conn, self events.Instance, mux http.Handler) error {
		metrics, err := telemetry.New(otel.Meter("github.com/proxima-discovery/proxima"))
		if err != nil {
			return err
		}
		defer func() { _ = metrics.Close() }()
		registry, err := kv.Open(ctx, nc, kv.Options{})
		if err != nil {
			return err
		}
		defer metrics.Registry(registry)()
		sel, err := selector.New(ctx, nc, selector.Options{
			Source:  registry,
			Breaker: breaker.Settings{OnChange: metrics.OnBreaker},
		})
		if err != nil {
			return err
		}
		defer func() { _ = sel.Close() }()
		defer metrics.Selector(sel)()
		announcement, err := registry.Announce(self, kv.AnnounceOptions{OnState: metrics.OnState})
		if err != nil {
			return err
		}
		client := &http.Client{Transport: proximahttp.New(sel, proximahttp.Options{
			Base: telemetry.Transport(proximahttp.NewBase()), // a span for each attempt
		})}
		server := &http.Server{Handler: telemetry.Handler(mux)} // a span for each request
		return errors.Join(run(client, server), announcement.Leave(ctx))
	}
}

func run(*http.Client, *http.Server) error { return nil }

func ExampleExtract() {
	msg := nats.NewMsg("proxima.route.user") // from a caller that is traced
	msg.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

	ctx, span := telemetry.Start(telemetry.Extract(context.Background(), msg.Header), "route", "user")
	next := telemetry.Inject(ctx, nats.Header{}) // without a provider the caller's trace goes on
	span.End(nil)
	fmt.Println(next["traceparent"][0])
	// Output: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
}
