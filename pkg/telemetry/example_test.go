package telemetry_test

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

func Example() {
	reader := sdkmetric.NewManualReader() // a program has an exporter here
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	metrics, err := telemetry.New(provider.Meter("example"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer metrics.Close()

	// A hook for the breakers of a selector.
	settings := breaker.Settings{Failures: 1, OnChange: metrics.OnBreaker}
	b := breaker.New(breaker.Key{Service: "user", Instance: "user-1"}, settings)
	defer b.Close()
	pass, _ := b.Allow()
	pass.Done(fmt.Errorf("connection reset"))

	var collected metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &collected)
	for _, m := range collected.ScopeMetrics[0].Metrics {
		sum, ok := m.Data.(metricdata.Sum[int64])
		if !ok {
			continue
		}
		for _, p := range sum.DataPoints {
			to, _ := p.Attributes.Value("to")
			fmt.Println(m.Name, to.AsString(), p.Value)
		}
	}
	// Output: proxima_breaker_changes open 1
}

func ExampleExtract() {
	msg := nats.NewMsg("proxima.route.user") // from a caller that is traced
	msg.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

	ctx, span := telemetry.Start(telemetry.Extract(context.Background(), msg.Header), "route", "user")
	next := telemetry.Inject(ctx, nats.Header{}) // without a provider the caller's trace goes on
	span.End(nil)
	fmt.Println(next["traceparent"][0])
	// Output: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
}
