package telemetry_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

const (
	parent  = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceID = "0af7651916cd43dd8448eb211c80319c"
)

func incoming() http.Header {
	return http.Header{"Traceparent": {parent}, "Tracestate": {"vendor=1"}, "Baggage": {"tenant=7"}}
}

// passOn sends a request with header through a server that makes another one,
// and returns the header of that.
func passOn(header http.Header) http.Header {
	var got http.Header
	client := telemetry.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		got = req.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	server := telemetry.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://user/", nil)
		if resp, err := client.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	}))
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = header
	server.ServeHTTP(httptest.NewRecorder(), r)
	return got
}

func TestWithoutAProviderTheTraceIsPassedOnAsItIs(t *testing.T) {
	if diff := cmp.Diff(incoming(), untouched); diff != "" {
		t.Errorf("before a provider was installed: %s", diff)
	}
	if got := passOn(http.Header{"Accept": {"*/*"}}); len(got) != 0 {
		t.Errorf("headers out of nothing: %v", got)
	}
	ctx, span := telemetry.Start(t.Context(), "route", "user")
	span.Picked("near", "zone")
	span.End(nil)
	if h := telemetry.Inject(ctx, nats.Header(nil)); h != nil {
		t.Errorf("a header out of nothing: %v", h)
	}
}

func TestASpanIsPutBetween(t *testing.T) {
	exporter := spans(t)
	got := passOn(incoming())
	ended := only(t, exporter, 2)
	client := ended[0].SpanContext
	if tp := "00-" + traceID + "-" + client.SpanID().String() + "-01"; got.Get("Traceparent") != tp {
		t.Errorf("traceparent %q, want %q", got.Get("Traceparent"), tp)
	}
	if got.Get("Tracestate") != "vendor=1" || got.Get("Baggage") != "tenant=7" {
		t.Errorf("sent %v", got)
	}
}

func TestATraceThatIsNotSampledIsPassedOnAsThat(t *testing.T) {
	exporter := spans(t, sdktrace.WithSampler(sdktrace.NeverSample()))
	got := passOn(incoming()).Get("Traceparent")
	if !strings.HasPrefix(got, "00-"+traceID+"-") || !strings.HasSuffix(got, "-00") {
		t.Errorf("traceparent %q, want the trace %s, not sampled", got, traceID)
	}
	if n := len(exporter.GetSpans()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

func TestAProxysHeadersAreTheParentOfItsRequest(t *testing.T) {
	exporter := spans(t)
	header := incoming()
	var sent http.Header
	rt := telemetry.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = req.Header
		return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
	}))
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://user/", nil)
	req.Header = header
	resp, err := rt.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := only(t, exporter, 1)[0]; got.SpanContext.TraceID().String() != traceID || got.Parent.SpanID().String() != "b7ad6b7169203331" {
		t.Errorf("the span is %v, child of %v", got.SpanContext, got.Parent)
	}
	if header.Get("Traceparent") != parent || sent.Get("Traceparent") == parent {
		t.Errorf("the caller's header is %v, sent was %v", header, sent)
	}
}

func TestReadsTheKeysOfNATSHeadersInAnyCase(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header nats.Header
		trace  string
		state  string
	}{
		{"lower", nats.Header{"traceparent": {parent}, "tracestate": {"a=1"}}, traceID, "a=1"},
		{"canonical", nats.Header{"Traceparent": {parent}, "Tracestate": {"a=1"}}, traceID, "a=1"},
		{"odd", nats.Header{"TraceParent": {parent}, "TRACESTATE": {"a=1"}}, traceID, "a=1"},
		{"two states", nats.Header{"traceparent": {parent}, "tracestate": {"a=1", "b=2"}}, traceID, "a=1,b=2"},
		{"two parents", nats.Header{"traceparent": {parent, parent}}, strings.Repeat("0", 32), ""},
		{"malformed", nats.Header{"traceparent": {"00-xyz"}}, strings.Repeat("0", 32), ""},
		{"empty values", nats.Header{"traceparent": nil, "baggage": nil}, strings.Repeat("0", 32), ""},
		{"nil", nil, strings.Repeat("0", 32), ""},
	} {
		sc := trace.SpanContextFromContext(telemetry.Extract(t.Context(), tt.header))
		if sc.TraceID().String() != tt.trace || sc.TraceState().String() != tt.state || sc.IsValid() != sc.IsRemote() {
			t.Errorf("%s: %v %q, want %s %q", tt.name, sc.TraceID(), sc.TraceState(), tt.trace, tt.state)
		}
	}
}

func TestWritesTheKeysOfNATSHeadersInLowerCase(t *testing.T) {
	ctx := telemetry.Extract(t.Context(), micro.Headers{"Traceparent": {parent}, "Tracestate": {"a=1"}, "Baggage": {"x=1", "y=2"}})
	got := telemetry.Inject(ctx, nats.Header{"Traceparent": {"old"}, "TRACEPARENT": {"older"}, "Proxima-Path": {"/"}})
	baggage := got["baggage"]
	delete(got, "baggage")
	if diff := cmp.Diff(nats.Header{"traceparent": {parent}, "tracestate": {"a=1"}, "Proxima-Path": {"/"}}, got); diff != "" {
		t.Error(diff)
	}
	if len(baggage) != 1 || (baggage[0] != "x=1,y=2" && baggage[0] != "y=2,x=1") {
		t.Errorf("baggage %q", baggage)
	}
}

func FuzzExtractTakesAnything(f *testing.F) {
	f.Add("traceparent", parent, "vendor=1", "a=b;c=d,e=%20f")
	f.Add("TRACEPARENT", parent+"-x", ",,,=", "=;,")
	f.Fuzz(func(t *testing.T, key, value, state, baggage string) {
		ctx := telemetry.Extract(context.Background(), nats.Header{key: {value}, "tracestate": {state}, "baggage": {baggage}})
		first := telemetry.Inject(ctx, nats.Header(nil))
		if sc := trace.SpanContextFromContext(ctx); sc.IsValid() != (len(first["traceparent"]) == 1) {
			t.Errorf("valid %v, but written %q", sc.IsValid(), first)
		}
		// What was accepted survives another hop.
		second := telemetry.Inject(telemetry.Extract(context.Background(), first), nats.Header(nil))
		if first["traceparent"] != nil && first["traceparent"][0] != second["traceparent"][0] {
			t.Errorf("%q became %q", first, second)
		}
	})
}

// BenchmarkWithoutProvider is what tracing costs a program that has none.
func BenchmarkWithoutProvider(b *testing.B) {
	answer := &http.Response{StatusCode: 200, Body: http.NoBody}
	base := roundTripper(func(*http.Request) (*http.Response, error) { return answer, nil })
	next := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	req := httptest.NewRequest(http.MethodGet, "http://user/", nil)
	for name, rt := range map[string]http.RoundTripper{"client=plain": base, "client=traced": telemetry.Transport(base)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, _ := rt.RoundTrip(req)
				resp.Body.Close()
			}
		})
	}
	for name, h := range map[string]http.Handler{"server=plain": next, "server=traced": telemetry.Handler(next)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(nil, req)
			}
		})
	}
	b.Run("nats", func(b *testing.B) {
		b.ReportAllocs()
		h := nats.Header{"Proxima-Path": {"/"}}
		for b.Loop() {
			ctx, span := telemetry.Start(telemetry.Extract(context.Background(), h), "route", "user")
			telemetry.Inject(ctx, h)
			span.End(nil)
		}
	})
}
