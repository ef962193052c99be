package daemon_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

func none(string) string { return "" }

func telemetry(t *testing.T, service string) *daemon.Telemetry {
	t.Helper()
	sdk, err := daemon.NewTelemetry(t.Context(), service, none, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sdk.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return sdk
}

func TestMetricsAreServedInTheFormatOfPrometheus(t *testing.T) {
	sdk := telemetry(t, "announcer")
	counter, err := sdk.Meter("test").Int64Counter("proxima.tests")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	rec := httptest.NewRecorder()
	sdk.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{"\nproxima_tests_total 3\n", "\ngo_goroutines ", "\nprocess_start_time_seconds ", `service_name="announcer"`} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("lacks %q:\n%s", want, rec.Body)
		}
	}
}

func TestTwoProgramsDoNotShareMetrics(t *testing.T) {
	for range 2 {
		sdk, err := daemon.NewTelemetry(t.Context(), "announcer", none, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := sdk.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// passOn makes a span for a call with a trace, and returns what is sent on.
func passOn(ctx context.Context) string {
	in := propagation.MapCarrier{"traceparent": traceparent}
	ctx = otel.GetTextMapPropagator().Extract(ctx, in)
	ctx, span := otel.Tracer("test").Start(ctx, "call")
	defer span.End()
	out := propagation.MapCarrier{}
	otel.GetTextMapPropagator().Inject(ctx, out)
	return out["traceparent"]
}

func TestWithoutACollectorTracesPassUnchanged(t *testing.T) {
	telemetry(t, "router")
	if got := passOn(t.Context()); got != traceparent {
		t.Errorf("sent on %q", got)
	}
}

func TestSpansReachTheCollectorBeforeTheEnd(t *testing.T) {
	received := make(chan *collector.ExportTraceServiceRequest, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", r.URL, err)
		}
		received <- &request
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	defer srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
	getenv := func(name string) string {
		if name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
			return srv.URL
		}
		return ""
	}
	sdk, err := daemon.NewTelemetry(t.Context(), "router", getenv, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	sent := passOn(t.Context())
	if !strings.HasPrefix(sent, traceparent[:36]) || sent == traceparent {
		t.Errorf("sent on %q, want the same trace with a span of our own", sent)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel() // as when the program was told to stop
	if err := sdk.Shutdown(ended); err != nil {
		t.Error(err)
	}
	select {
	case request := <-received:
		spans := request.GetResourceSpans()[0]
		if got := spans.GetScopeSpans()[0].GetSpans()[0].GetName(); got != "call" {
			t.Errorf("span %q", got)
		}
		if about := spans.GetResource().String(); !strings.Contains(about, "router") {
			t.Errorf("resource %s", about)
		}
	default:
		t.Error("no span was sent")
	}
}

func TestACollectorThatHangsDoesNotDelayTheEnd(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", srv.URL)
	sdk, err := daemon.NewTelemetry(t.Context(), "router", func(string) string { return srv.URL }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if limit := sdk.Flush(); limit != 2*time.Second {
		t.Errorf("the end may be delayed by %v", limit)
	}
	sdk.SetFlush(200 * time.Millisecond)
	passOn(t.Context())
	began := time.Now()
	if err := sdk.Shutdown(t.Context()); err == nil {
		t.Error("no error, and nothing was sent")
	}
	if took := time.Since(began); took < 200*time.Millisecond || took > 1200*time.Millisecond {
		t.Errorf("took %v", took)
	}
}
