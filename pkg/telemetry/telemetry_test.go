package telemetry_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// untouched is what is passed on before any provider is installed.
var untouched http.Header

func TestMain(m *testing.M) {
	untouched = passOn(incoming())
	os.Exit(m.Run())
}

// spans installs a provider that keeps every span, for one test.
func spans(t *testing.T, o ...sdktrace.TracerProviderOption) *tracetest.InMemoryExporter {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(append(o, sdktrace.WithSyncer(exporter))...)
	otel.SetTracerProvider(provider)
	t.Cleanup(func() {
		otel.SetTracerProvider(noop.NewTracerProvider())
		_ = provider.Shutdown(context.Background())
	})
	return exporter
}

// only waits for the end of n spans and returns them in the order they ended.
func only(t *testing.T, e *tracetest.InMemoryExporter, n int) tracetest.SpanStubs {
	t.Helper()
	testkit.Eventually(t, fmt.Sprint(n, " spans"), func() bool { return len(e.GetSpans()) >= n })
	got := e.GetSpans()
	if len(got) != n {
		t.Fatalf("%d spans, want %d: %+v", len(got), n, got)
	}
	return got
}

// attributes of a span, as text.
func attributes(s tracetest.SpanStub) map[string]string {
	all := make(map[string]string)
	for _, kv := range s.Attributes {
		all[string(kv.Key)] = kv.Value.String()
	}
	return all
}

func want(t *testing.T, s tracetest.SpanStub, attrs map[string]string) {
	t.Helper()
	got := attributes(s)
	for k, v := range attrs {
		if got[k] != v {
			t.Errorf("span %s has %s=%q, want %q", s.Name, k, got[k], v)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("span %s has %v as well", s.Name, got)
	}
}

// static is a Source of a fixed list.
type static []events.Entry

func (s static) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	apply(events.Snapshot{Service: service, Entries: s})
	<-ctx.Done()
	return ctx.Err()
}

// instance is one of service user. Zone "a" is the caller's.
func instance(id, zone, address string) events.Entry {
	return events.Entry{Instance: &events.Instance{
		ID: id, Service: "user", Incarnation: "1", Status: events.Up, Weight: events.DefaultWeight,
		Location: topology.Location{Region: "r", Zone: zone}, Endpoints: map[string]string{events.HTTP: address},
	}}
}

func newSelector(tb testing.TB, instances ...events.Entry) *selector.Selector {
	tb.Helper()
	sel, err := selector.New(tb.Context(), nil, selector.Options{
		Location: topology.Location{Region: "r", Zone: "a"}, Source: static(instances), Retry: selector.Retry{Backoff: 1},
		Latency: latency.Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = sel.Close() })
	return sel
}

func serve(tb testing.TB, h http.Handler) *httptest.Server {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(srv.Close)
	return srv
}

func proxima(sel *selector.Selector, base http.RoundTripper) *http.Client {
	return &http.Client{Transport: proximahttp.New(sel, proximahttp.Options{Base: base})}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
