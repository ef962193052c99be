package router_test

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/proxima-discovery/proxima/internal/router"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

func TestCountsRequestsByDoorServiceAndCode(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	metrics, err := telemetry.New(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	d := newFleet(t).router(router.Options{
		Metrics: metrics, MetricsHandler: says("metrics"),
		Selector: noRetries(),
	})
	d.instance("user", "u", zoneA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/404" {
			http.NotFound(w, r)
		}
	}))
	d.get("/proxy/user/")
	d.get("/proxy/user/404")
	d.get("/proxy/any-name-at-all/")
	d.get("/v1/services/user")
	d.get("/v1/services/another-name")
	d.do("PUT", "/v1/heartbeat", `{"service":"user","id":"u"}`)
	d.ask("proxima.route.user", "", "Proxima-Path", "/404")
	d.ask("proxima.route.third-name", "")
	if got := d.get("/metrics"); got.body != "metrics" {
		t.Errorf("/metrics: %d %s", got.status, got.body)
	}

	want := strings.Fields(`
		heartbeat/user/200=1 nats_route//404=1 nats_route/user/404=1
		proxy//503=1 proxy/user/200=1 proxy/user/404=1 service//404=1 service/user/200=1`)
	testkit.Eventually(t, fmt.Sprint("the counts are ", want), func() bool {
		got := counts(t, reader, "proxima_router_requests", "door", "service", "code")
		return strings.Join(got, " ") == strings.Join(want, " ")
	})
	if got := counts(t, reader, "proxima_picks", "circle"); strings.Join(got, " ") != "elsewhere=0 region=0 zone=3" {
		t.Errorf("picks: %v", got)
	}
}

// Beats are heard in the router's own bucket.
func TestHearsTheBeatsOfItsBucket(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	metrics, err := telemetry.New(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test"))
	if err != nil {
		t.Fatal(err)
	}
	f := newFleet(t)
	d := f.router(router.Options{Bucket: "other", Metrics: metrics, Selector: selector.Options{Strategy: selector.LoadAware}})
	d.instance("user", "u", zoneA, http.NotFoundHandler())
	d.get("/proxy/user/")
	testkit.Eventually(t, "a beat is heard", func() bool {
		if err := f.nc.Publish("other.beat.user.us.a.u", []byte("no beat")); err != nil {
			t.Fatal(err)
		}
		return !slices.Contains(counts(t, reader, "proxima_invalid_beats"), "=0")
	})
}

// counts are the values of a counter, by its attributes.
func counts(t *testing.T, reader *sdkmetric.ManualReader, name string, by ...attribute.Key) []string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != name {
				continue
			}
			for _, p := range sum.DataPoints {
				var parts []string
				for _, key := range by {
					v, _ := p.Attributes.Value(key)
					parts = append(parts, v.AsString())
				}
				got = append(got, fmt.Sprintf("%s=%d", strings.Join(parts, "/"), p.Value))
			}
		}
	}
	sort.Strings(got)
	return got
}
