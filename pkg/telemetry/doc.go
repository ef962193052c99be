// Package telemetry turns what Proxima knows into OpenTelemetry metrics and
// traces.
//
// [New] makes the instruments, and the methods of [Metrics] are the hooks of
// the other packages: [Metrics.OnState] for announcements,
// [Metrics.OnBreaker] for breakers, [Metrics.Selector] for picks,
// [Metrics.Registry] for what was wrong with what was read. Picks are read from
// the selector when somebody collects, so that picking pays nothing.
//
// [Transport] and [Handler] carry W3C trace context through HTTP, [Inject] and
// [Extract] through the headers of NATS messages, and [Start] makes a span
// around a call that is passed on. They use the tracer provider of
// [go.opentelemetry.io/otel.SetTracerProvider]. Where there is none, they make
// no spans and only pass the caller's trace context on.
//
// The package uses the OpenTelemetry API only: programs that install no SDK
// compile none.
package telemetry
