package telemetry

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/proxima-discovery/proxima/pkg/telemetry"

// tracer delegates to a provider that is installed later.
func tracer() trace.Tracer { return otel.Tracer(scope) }

// w3c reads and writes traceparent, tracestate and baggage.
type w3c struct {
	trace   propagation.TraceContext
	baggage propagation.Baggage
}

func (p w3c) extract(ctx context.Context, c propagation.TextMapCarrier) context.Context {
	return p.baggage.Extract(p.trace.Extract(ctx, c), c)
}

func (p w3c) inject(ctx context.Context, c propagation.TextMapCarrier) {
	p.trace.Inject(ctx, c)
	p.baggage.Inject(ctx, c)
}

// Inject writes the trace context and baggage of ctx into the header of a NATS
// message and returns the header, which is a new one when h is nil and there
// is something to write:
//
//	msg.Header = telemetry.Inject(ctx, msg.Header)
//
// The keys are lower case, as W3C writes them; nats.Header does not change
// them. H is nats.Header or micro.Headers.
func Inject[H ~map[string][]string](ctx context.Context, h H) H {
	c := message{h}
	w3c{}.inject(ctx, &c)
	return c.header
}

// Extract returns ctx with the trace context and baggage of the header of a
// NATS message. Keys are read in any case, for senders that write them as HTTP
// libraries do. What is malformed is ignored.
func Extract[H ~map[string][]string](ctx context.Context, h H) context.Context {
	if len(h) == 0 {
		return ctx
	}
	return w3c{}.extract(ctx, &message{h})
}

// message is the header of a NATS message, whose keys are case-sensitive.
type message struct{ header map[string][]string }

var _ propagation.ValuesGetter = (*message)(nil)

// Get joins the values of one key with commas, as W3C requires for tracestate. Two
// values of traceparent make an invalid one, as it also requires.
func (m *message) Get(key string) string { return strings.Join(m.Values(key), ",") }

func (m *message) Values(key string) []string {
	if values, ok := m.header[key]; ok {
		return values
	}
	for k, values := range m.header {
		if strings.EqualFold(k, key) {
			return values
		}
	}
	return nil
}

func (m *message) Set(key, value string) {
	for k := range m.header {
		if strings.EqualFold(k, key) {
			delete(m.header, k)
		}
	}
	if m.header == nil {
		m.header = make(map[string][]string, 3)
	}
	m.header[strings.ToLower(key)] = []string{value}
}

func (m *message) Keys() []string {
	keys := make([]string, 0, len(m.header))
	for k := range m.header {
		keys = append(keys, strings.ToLower(k))
	}
	return keys
}

// copied is the header of an HTTP request, copied when it is first written to.
type copied struct {
	propagation.HeaderCarrier
	done bool
}

func (c *copied) Set(key, value string) {
	if !c.done {
		c.HeaderCarrier = propagation.HeaderCarrier(http.Header(c.HeaderCarrier).Clone())
		if c.HeaderCarrier == nil {
			c.HeaderCarrier = make(propagation.HeaderCarrier, 3)
		}
		c.done = true
	}
	c.HeaderCarrier.Set(key, value)
}
