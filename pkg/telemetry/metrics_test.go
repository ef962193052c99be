package telemetry_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

// metrics are read as Prometheus does.
type metrics struct {
	*telemetry.Metrics
	page http.Handler
}

func newMetrics(t *testing.T) *metrics {
	t.Helper()
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		t.Fatal(err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(t.Context()) })
	m, err := telemetry.New(provider.Meter("proxima"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return &metrics{m, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}
}

// lines are those of the metrics whose name begins with one of names, in order.
func (m *metrics) lines(names ...string) []string {
	w := httptest.NewRecorder()
	m.page.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var got []string
	for line := range strings.SplitSeq(w.Body.String(), "\n") {
		if slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(line, name) }) {
			got = append(got, line)
		}
	}
	slices.Sort(got)
	return got
}

// value is the value of one series.
func (m *metrics) value(t *testing.T, series string) float64 {
	t.Helper()
	lines := m.lines(series + " ")
	if len(lines) != 1 {
		t.Fatalf("%s: %q", series, lines)
	}
	v, err := strconv.ParseFloat(strings.TrimPrefix(lines[0], series+" "), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (m *metrics) want(t *testing.T, when string, names, lines []string) {
	t.Helper()
	if diff := cmp.Diff(lines, m.lines(names...)); diff != "" {
		t.Errorf("%s: %s", when, diff)
	}
}

func TestShowsWhichInstancesAreRegistered(t *testing.T) {
	m := newMetrics(t)
	names := []string{"proxima_announcer"}
	m.want(t, "at first", names, nil)
	m.OnState(kv.State{Service: "user", Instance: "u1", Phase: kv.Registering})
	m.OnState(kv.State{Service: "user", Instance: "u1", Phase: kv.Registering, Err: errors.New("no reply")})
	m.OnState(kv.State{Service: "user", Instance: "u2", Phase: kv.Registered})
	m.OnState(kv.State{Service: "user", Instance: "u2", Phase: kv.Registered, Lost: 2})
	m.OnState(kv.State{Service: "user", Instance: "u2", Phase: kv.Registered, Lost: 3})
	m.OnState(kv.State{Service: "shop", Instance: "s1", Phase: kv.Draining})
	m.want(t, "announced", names, []string{
		`proxima_announcer_changes_total{phase="draining",service="shop"} 1`,
		`proxima_announcer_changes_total{phase="registered",service="user"} 1`,
		`proxima_announcer_changes_total{phase="registering",service="user"} 1`,
		`proxima_announcer_failing{instance="s1",service="shop"} 0`,
		`proxima_announcer_failing{instance="u1",service="user"} 1`,
		`proxima_announcer_failing{instance="u2",service="user"} 0`,
		`proxima_announcer_lost_records_total{service="user"} 3`,
		`proxima_announcer_registered{instance="s1",service="shop"} 1`,
		`proxima_announcer_registered{instance="u1",service="user"} 0`,
		`proxima_announcer_registered{instance="u2",service="user"} 1`,
	})
	m.OnState(kv.State{Service: "user", Instance: "u1", Phase: kv.Replaced})
	m.OnState(kv.State{Service: "shop", Instance: "s1", Phase: kv.Left})
	m.OnState(kv.State{Service: "user", Instance: "u2", Phase: kv.Conflict})
	m.want(t, "left", []string{"proxima_announcer_registered"}, []string{
		`proxima_announcer_registered{instance="u2",service="user"} 0`,
	})
}

func TestCountsBreakersAndRequests(t *testing.T) {
	m := newMetrics(t)
	key := breaker.Key{Service: "user", Instance: "u1", Incarnation: "1"}
	m.OnBreaker(key, breaker.Closed, breaker.Open)
	m.OnBreaker(key, breaker.Open, breaker.HalfOpen)
	m.OnBreaker(key, breaker.HalfOpen, breaker.Open)
	m.want(t, "breakers", []string{"proxima_breaker"}, []string{
		`proxima_breaker_changes_total{service="user",to="half-open"} 1`,
		`proxima_breaker_changes_total{service="user",to="open"} 2`,
	})
	m.Request("route", "user", "200", 2*time.Millisecond)
	m.Request("route", "user", "503", 20*time.Millisecond)
	m.Request("proxy", "user", "200", 2*time.Second)
	m.want(t, "requests", []string{
		"proxima_router_requests", "proxima_router_request_duration_seconds_count", "proxima_router_request_duration_seconds_sum",
		`proxima_router_request_duration_seconds_bucket{door="route",service="user",le="0.00`,
	}, []string{
		`proxima_router_request_duration_seconds_bucket{door="route",service="user",le="0.0005"} 0`,
		`proxima_router_request_duration_seconds_bucket{door="route",service="user",le="0.001"} 0`,
		`proxima_router_request_duration_seconds_bucket{door="route",service="user",le="0.0025"} 1`,
		`proxima_router_request_duration_seconds_bucket{door="route",service="user",le="0.005"} 1`,
		`proxima_router_request_duration_seconds_count{door="proxy",service="user"} 1`,
		`proxima_router_request_duration_seconds_count{door="route",service="user"} 2`,
		`proxima_router_request_duration_seconds_sum{door="proxy",service="user"} 2`,
		`proxima_router_request_duration_seconds_sum{door="route",service="user"} 0.022`,
		`proxima_router_requests_total{code="200",door="proxy",service="user"} 1`,
		`proxima_router_requests_total{code="200",door="route",service="user"} 1`,
		`proxima_router_requests_total{code="503",door="route",service="user"} 1`,
	})
}

func TestShowsWhatASelectorPicks(t *testing.T) {
	m := newMetrics(t)
	sel := newSelector(t, instance("near", "a", "10.0.0.1:80"), instance("far", "b", "10.0.0.2:80"))
	stop := m.Selector(sel)
	for range 3 {
		p, err := sel.Pick(t.Context(), "user")
		if err != nil {
			t.Fatal(err)
		}
		p.Done(nil)
	}
	if _, err := sel.Pick(t.Context(), "user"); err != nil { // in flight from now on
		t.Fatal(err)
	}
	got := m.lines("proxima_picks", "proxima_instances", "proxima_usable_instances", "proxima_in_flight", "proxima_circle", "proxima_demoted", "proxima_stale_views", "proxima_invalid")
	for _, line := range []string{
		`proxima_picks_total{circle="zone",service="user"} 4`,
		`proxima_picks_total{circle="region",service="user"} 0`,
		`proxima_instances{circle="zone",service="user"} 1`,
		`proxima_instances{circle="region",service="user"} 1`,
		`proxima_usable_instances{circle="region",service="user"} 1`,
		`proxima_in_flight{circle="zone",service="user"} 1`,
		`proxima_circle_share{circle="zone",service="user"} 1`,
		`proxima_demoted_circles{circle="region",service="user"} 0`,
		`proxima_stale_views{service="user"} 0`,
		`proxima_invalid_beats_total 0`,
	} {
		if !slices.Contains(got, line) {
			t.Errorf("no %s in %s", line, strings.Join(got, "\n"))
		}
	}
	stop()
	stop()
	m.want(t, "stopped", []string{"proxima_picks_total{circle=\"zone\"", "proxima_instances", "proxima_stale_views"}, []string{
		`proxima_picks_total{circle="zone",service="user"} 4`,
	})
}

// stats are fixed ones.
type stats selector.Stats

func (s stats) Stats() selector.Stats { return selector.Stats(s) }

// of is the stats of services.
func of(services ...selector.ServiceStats) stats { return stats{Services: services} }

func circles(service string, all ...selector.Circle) selector.ServiceStats {
	return selector.ServiceStats{Service: service, Circles: all}
}

func TestShowsHowCallsEnd(t *testing.T) {
	m := newMetrics(t)
	names := []string{
		"proxima_calls", "proxima_broken", "proxima_timed", "proxima_retries", "proxima_refused_retries", "proxima_slow_attempts", "proxima_hedges", "proxima_forgotten",
		"proxima_rule", "proxima_mirrored", "proxima_dropped",
	}
	m.want(t, "at first", names, nil)
	zone := selector.Circle{Name: "zone", BrokenAnswers: 1, TimedCalls: 4, TimedTotal: 1500 * time.Millisecond}
	zone.Outcomes[selector.Success], zone.Outcomes[selector.Fault], zone.Outcomes[selector.Local] = 100, 10, 1
	one := of(selector.ServiceStats{
		Service: "user", Circles: []selector.Circle{zone}, Retries: 5, RefusedRetries: 4, SlowAttempts: 3, Hedges: 1, ForgottenCalls: 2,
		Mirrored: 6, DroppedMirrors: 1, Rules: []selector.RuleStats{{Rule: "split", Where: "version=2", Calls: 7, Fallbacks: 1}, {Rule: "request", Calls: 3}},
	})
	m.Selector(one)
	stop := m.Selector(one)
	want := []string{
		`proxima_broken_answers_total{circle="zone",service="user"} 2`,
		`proxima_calls_total{circle="zone",outcome="answer",service="user"} 0`,
		`proxima_calls_total{circle="zone",outcome="backpressure",service="user"} 0`,
		`proxima_calls_total{circle="zone",outcome="canceled",service="user"} 0`,
		`proxima_calls_total{circle="zone",outcome="fault",service="user"} 20`,
		`proxima_calls_total{circle="zone",outcome="local",service="user"} 2`,
		`proxima_calls_total{circle="zone",outcome="success",service="user"} 200`,
		`proxima_dropped_mirrors_total{service="user"} 2`,
		`proxima_forgotten_calls_total{service="user"} 4`,
		`proxima_hedges_total{service="user"} 2`,
		`proxima_mirrored_calls_total{service="user"} 12`,
		`proxima_refused_retries_total{service="user"} 8`,
		`proxima_retries_total{service="user"} 10`,
		`proxima_rule_calls_total{rule="request",service="user",where=""} 6`,
		`proxima_rule_calls_total{rule="split",service="user",where="version=2"} 14`,
		`proxima_rule_fallbacks_total{rule="request",service="user",where=""} 0`,
		`proxima_rule_fallbacks_total{rule="split",service="user",where="version=2"} 2`,
		`proxima_slow_attempts_total{service="user"} 6`,
		`proxima_timed_call_seconds_total{circle="zone",service="user"} 3`,
		`proxima_timed_calls_total{circle="zone",service="user"} 8`,
	}
	m.want(t, "of two selectors", names, want)
	stop()
	m.want(t, "after one was stopped", names, want)
}

func TestShowsAHistogramOfDurations(t *testing.T) {
	m := newMetrics(t)
	names := []string{"proxima_call_duration"}
	m.want(t, "at first", names, nil)
	zone, region := selector.Circle{Name: "zone"}, selector.Circle{Name: "region"}
	bounds := selector.DurationBounds()
	fill := func() {
		for i, bound := range bounds { // 1 of the first bucket, 2 of the next one …
			d := &zone.Durations[i]
			d.Calls += uint64(i) + 1
			d.Total += time.Duration(i+1) * bound
		}
		region.Durations[len(bounds)].Calls++
		region.Durations[len(bounds)].Total += time.Minute
	}
	fill()
	show := func() stats { return of(circles("user", zone, region)) }
	stop := m.Selector(statsFunc(func() selector.Stats { return selector.Stats(show()) }))
	want := func(times int) []string {
		var lines []string
		sum, count := 0.0, 0
		for i, bound := range bounds {
			count += (i + 1) * times
			sum += float64(times*(i+1)) * bound.Seconds()
			lines = append(lines,
				fmt.Sprintf(`proxima_call_duration_seconds_bucket{circle="zone",service="user",le="%v"} %d`, bound.Seconds(), count),
				fmt.Sprintf(`proxima_call_duration_seconds_bucket{circle="region",service="user",le="%v"} 0`, bound.Seconds()))
		}
		lines = append(lines,
			fmt.Sprintf(`proxima_call_duration_seconds_bucket{circle="zone",service="user",le="+Inf"} %d`, count),
			fmt.Sprintf(`proxima_call_duration_seconds_bucket{circle="region",service="user",le="+Inf"} %d`, times),
			fmt.Sprintf(`proxima_call_duration_seconds_count{circle="zone",service="user"} %d`, count),
			fmt.Sprintf(`proxima_call_duration_seconds_count{circle="region",service="user"} %d`, times),
			fmt.Sprintf(`proxima_call_duration_seconds_sum{circle="zone",service="user"} %.6g`, sum),
			fmt.Sprintf(`proxima_call_duration_seconds_sum{circle="region",service="user"} %v`, 60*times))
		slices.Sort(lines)
		return lines
	}
	m.want(t, "once", names, want(1))
	m.want(t, "again, when there is nothing new", names, want(1))
	fill()
	m.want(t, "with more", names, want(2))
	stop()
	m.want(t, "after it was stopped", names, want(2))
}

// statsFunc is a selector whose stats change.
type statsFunc func() selector.Stats

func (f statsFunc) Stats() selector.Stats { return f() }

func TestShowsTheSharesOfCircles(t *testing.T) {
	m := newMetrics(t)
	names := []string{"proxima_circle_share", "proxima_demoted"}
	m.want(t, "at first", names, nil)
	one := of(
		circles("user", selector.Circle{Name: "zone", Share: 0.25, Demoted: true}, selector.Circle{Name: "region", Share: 0.75}),
		circles("shop", selector.Circle{Name: "zone", Share: 1}),
	)
	two := of(circles("user", selector.Circle{Name: "zone", Share: 1}, selector.Circle{Name: "region"}))
	m.Selector(one)
	stop := m.Selector(two)
	m.want(t, "of two selectors", names, []string{
		`proxima_circle_share{circle="region",service="user"} 0.375`,
		`proxima_circle_share{circle="zone",service="shop"} 1`,
		`proxima_circle_share{circle="zone",service="user"} 0.625`,
		`proxima_demoted_circles{circle="region",service="user"} 0`,
		`proxima_demoted_circles{circle="zone",service="shop"} 0`,
		`proxima_demoted_circles{circle="zone",service="user"} 1`,
	})
	stop()
	m.want(t, "of one", names[:1], []string{
		`proxima_circle_share{circle="region",service="user"} 0.75`,
		`proxima_circle_share{circle="zone",service="shop"} 1`,
		`proxima_circle_share{circle="zone",service="user"} 0.25`,
	})
}

func TestCountsProbesAndRejectedSamples(t *testing.T) {
	m := newMetrics(t)
	names := []string{"proxima_probes", "proxima_rejected", "proxima_invalid"}
	want := func(when, probes, samples, beats string) {
		t.Helper()
		m.want(t, when, names, []string{
			"proxima_invalid_beats_total " + beats, "proxima_probes_total " + probes, "proxima_rejected_samples_total " + samples,
		})
	}
	m.want(t, "at first", names, nil)
	stop := m.Selector(stats{Latency: latency.Counts{Probes: 100, Rejected: 20}, InvalidBeats: 3})
	m.Selector(stats{Latency: latency.Counts{Probes: 7, Rejected: 5}, InvalidBeats: 1})
	want("of two selectors", "107", "25", "4")
	stop()
	stop()
	want("of one that was taken away and one", "107", "25", "4")
}

// registry has these counts and this health.
type registry struct {
	counts kv.Counts
	health kv.Health
}

func (r registry) Counts() kv.Counts { return r.counts }
func (r registry) Health() kv.Health { return r.health }

func TestCountsWhatIsWrongWithTheRegistry(t *testing.T) {
	m := newMetrics(t)
	names := []string{"proxima_registry"}
	want := func(when, invalid, forged, gaps, snapshots, missing, unreadable, unwritable string) {
		t.Helper()
		m.want(t, when, names, []string{
			"proxima_registry_forged_messages_total " + forged, "proxima_registry_gaps_total " + gaps,
			"proxima_registry_invalid_messages_total " + invalid, "proxima_registry_missing_replicas " + missing, "proxima_registry_snapshots_total " + snapshots,
			"proxima_registry_unreadable " + unreadable, "proxima_registry_unwritable " + unwritable,
		})
	}
	m.want(t, "at first", names, nil)
	broken := errors.New("broken")
	stop := m.Registry(registry{kv.Counts{Invalid: 10, Forged: 20, Gaps: 30, Snapshots: 40}, kv.Health{Err: broken, WriteErr: broken, MissingReplicas: 2}})
	m.Registry(registry{kv.Counts{Invalid: 1, Forged: 2, Gaps: 3, Snapshots: 4}, kv.Health{MissingReplicas: 1}})
	want("of two", "11", "22", "33", "44", "2", "1", "1")
	stop()
	stop()
	want("of one that was taken away and one", "11", "22", "33", "44", "1", "0", "0")
}

func TestAddsUpSelectors(t *testing.T) {
	m := newMetrics(t)
	one := of(circles("user", selector.Circle{Name: "zone", Picks: 5, Instances: 2, Usable: 1, InFlight: 3}))
	two := of(
		circles("user", selector.Circle{Name: "zone", Picks: 2, Instances: 5, Usable: 2, Suspect: 1, Dead: 2}),
		circles("shop", selector.Circle{Name: "zone", Picks: 1, Instances: 1, Usable: 1, InFlight: 1}),
	)
	two.Services[0].Stale, two.Services[0].StaleSince = true, time.Now().Add(-time.Hour)
	stopOne, stopTwo := m.Selector(one), m.Selector(two)
	names := []string{"proxima_picks", "proxima_instances", "proxima_usable", "proxima_in_flight", "proxima_stale_views", "proxima_suspect", "proxima_dead"}
	m.want(t, "both", names, []string{
		`proxima_dead_instances{circle="zone",service="shop"} 0`,
		`proxima_dead_instances{circle="zone",service="user"} 2`,
		`proxima_in_flight{circle="zone",service="shop"} 1`,
		`proxima_in_flight{circle="zone",service="user"} 3`,
		`proxima_instances{circle="zone",service="shop"} 1`,
		`proxima_instances{circle="zone",service="user"} 7`,
		`proxima_picks_total{circle="zone",service="shop"} 1`,
		`proxima_picks_total{circle="zone",service="user"} 7`,
		`proxima_stale_views{service="shop"} 0`,
		`proxima_stale_views{service="user"} 1`,
		`proxima_suspect_instances{circle="zone",service="shop"} 0`,
		`proxima_suspect_instances{circle="zone",service="user"} 1`,
		`proxima_usable_instances{circle="zone",service="shop"} 1`,
		`proxima_usable_instances{circle="zone",service="user"} 3`,
	})
	if got := m.value(t, `proxima_stale_view_seconds{service="user"}`); got < 3600 || got > 4000 {
		t.Errorf("stale for %v s", got)
	}
	if got := m.value(t, `proxima_stale_view_seconds{service="shop"}`); got != 0 {
		t.Errorf("stale for %v s, though it is not", got)
	}
	stopTwo()
	m.want(t, "one stopped", []string{"proxima_picks", "proxima_stale"}, []string{
		`proxima_picks_total{circle="zone",service="shop"} 1`,
		`proxima_picks_total{circle="zone",service="user"} 7`,
		`proxima_stale_view_seconds{service="user"} 0`,
		`proxima_stale_views{service="user"} 0`,
	})
	stopOne()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	m.want(t, "closed", names, nil)
}

func TestHooksMayBeCalledWhileMetricsAreCollected(t *testing.T) {
	m := newMetrics(t)
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for i := range 50 {
				m.OnState(kv.State{Service: "user", Instance: "u1", Phase: []kv.Phase{kv.Registering, kv.Registered, kv.Left}[i%3]})
				m.OnBreaker(breaker.Key{Service: "user"}, breaker.Closed, breaker.Open)
				m.Request("route", "user", "200", time.Millisecond)
				m.Selector(of(circles("user", selector.Circle{Name: "zone", Picks: 1})))()
				m.lines("proxima")
			}
		})
	}
	calls.Wait()
	for _, line := range []string{
		`proxima_breaker_changes_total{service="user",to="open"} 200`,
		`proxima_picks_total{circle="zone",service="user"} 200`,
		`proxima_router_requests_total{code="200",door="route",service="user"} 200`,
	} {
		if !slices.Contains(m.lines("proxima"), line) {
			t.Errorf("no %s in %s", line, strings.Join(m.lines("proxima"), "\n"))
		}
	}
}

// refusingMeter cannot make one instrument, or register a callback.
type refusingMeter struct {
	noop.Meter
	counter, callback error
}

func (m refusingMeter) Int64Counter(string, ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return noop.Int64Counter{}, m.counter
}

func (m refusingMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return noop.Registration{}, m.callback
}

func TestNewReturnsTheErrorsOfTheMeter(t *testing.T) {
	for _, meter := range []refusingMeter{{counter: io.ErrClosedPipe}, {callback: io.ErrClosedPipe}} {
		if _, err := telemetry.New(meter); !errors.Is(err, io.ErrClosedPipe) || !strings.HasPrefix(err.Error(), "telemetry: ") {
			t.Errorf("got %v", err)
		}
	}
	m, err := telemetry.New(refusingMeter{})
	if err != nil {
		t.Fatal(err)
	}
	m.Request("route", "user", "200", time.Second) // is dropped
	m.OnBreaker(breaker.Key{}, breaker.Closed, breaker.Open)
	m.OnState(kv.State{})
}

// BenchmarkRequest is the hook of the router's doors, without and with an SDK.
func BenchmarkRequest(b *testing.B) {
	for name, meter := range map[string]metric.Meter{
		"provider=none": noop.NewMeterProvider().Meter(""),
		"provider=sdk":  sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader())).Meter(""),
	} {
		m, err := telemetry.New(meter)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Request("route", "user", "200", time.Millisecond)
			}
		})
	}
}
