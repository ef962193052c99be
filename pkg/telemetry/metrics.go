package telemetry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// Metrics are Proxima's instruments. Its methods are hooks, safe for concurrent use.
type Metrics struct {
	announcerChanges metric.Int64Counter
	lostRecords      metric.Int64Counter
	breakerChanges   metric.Int64Counter
	requests         metric.Int64Counter
	timeouts         metric.Int64Counter
	durations        metric.Float64Histogram

	registered metric.Int64ObservableGauge
	failing    metric.Int64ObservableGauge
	calls      callInstruments
	views      viewInstruments
	reads      registryInstruments
	source     sourceInstruments
	callback   metric.Registration

	mu            sync.Mutex // guards the rest; not held during calls
	announcements map[announcement]kv.State
	listing       map[string]SourceState // by kind
	sources       map[*source]struct{}
	ended         calls  // of selectors that were stopped
	counted       totals // by them
	registries    map[*counted]struct{}
	read          kv.Counts // of registries that were stopped
}

type announcement struct{ service, instance string }

// New makes the instruments of meter, such as
//
//	otel.Meter("github.com/proxima-discovery/proxima")
func New(meter metric.Meter) (*Metrics, error) {
	m := &Metrics{
		announcements: make(map[announcement]kv.State),
		listing:       make(map[string]SourceState),
		sources:       make(map[*source]struct{}),
		ended:         newCalls(),
		registries:    make(map[*counted]struct{}),
	}
	b := builder{meter: meter}
	m.announcerChanges = b.counter("proxima_announcer_changes", "Changes of the phase of announcements.")
	m.lostRecords = b.counter("proxima_announcer_lost_records", "Records that had vanished without being removed, and were announced again.")
	m.breakerChanges = b.counter("proxima_breaker_changes", "Changes of the state of breakers.")
	m.requests = b.counter("proxima_router_requests", "Requests that came through the router's doors.")
	m.timeouts = b.counter("proxima_router_timeouts", "Calls that a time limit of the router, or of the caller, has ended, by limit.")
	m.durations = b.seconds("proxima_router_request_duration", "Time from a request to the end of its answer.")
	m.registered = b.gauge("proxima_announcer_registered", "1 while the instance is listed in the registry, else 0.")
	m.failing = b.gauge("proxima_announcer_failing", "1 while something is wrong with the announcement, such as a lease that cannot be renewed, else 0.")
	m.calls = newCallInstruments(&b)
	m.views = newViewInstruments(&b)
	m.reads = newRegistryInstruments(&b)
	m.source = newSourceInstruments(&b)
	if b.err != nil {
		return nil, fmt.Errorf("telemetry: make an instrument: %w", b.err)
	}

	callback, err := meter.RegisterCallback(m.observe, slices.Concat(m.calls.all(), m.views.all(), m.reads.all(), m.source.all(), []metric.Observable{m.registered, m.failing})...)
	if err != nil {
		return nil, fmt.Errorf("telemetry: register a callback: %w", err)
	}
	m.callback = callback
	return m, nil
}

// Close ends the instruments that are read when metrics are collected. It may be called
// twice.
func (m *Metrics) Close() error { return m.callback.Unregister() }

// OnState is for [kv.AnnounceOptions]. An instance that has left or was replaced is no
// longer reported, so that alarms on its gauges end.
func (m *Metrics) OnState(s kv.State) {
	a := announcement{s.Service, s.Instance}
	m.mu.Lock()
	before, known := m.announcements[a]
	if s.Phase == kv.Left || s.Phase == kv.Replaced {
		delete(m.announcements, a)
	} else {
		m.announcements[a] = s
	}
	m.mu.Unlock()
	ctx := context.Background()
	if s.Lost > before.Lost {
		m.lostRecords.Add(ctx, int64(s.Lost-before.Lost), metric.WithAttributes(attribute.String("service", s.Service)))
	}
	if (!known || before.Phase != s.Phase) && m.announcerChanges.Enabled(ctx) {
		m.announcerChanges.Add(ctx, 1, metric.WithAttributes(
			attribute.String("service", s.Service), attribute.String("phase", string(s.Phase))))
	}
}

// OnBreaker is for OnChange of [breaker.Settings].
func (m *Metrics) OnBreaker(k breaker.Key, _, to breaker.State) {
	if ctx := context.Background(); m.breakerChanges.Enabled(ctx) {
		m.breakerChanges.Add(ctx, 1, metric.WithAttributes(
			attribute.String("service", k.Service), attribute.String("to", to.String())))
	}
}

// Request counts a request at a door of the router. The service must be one that exists,
// or empty: each new name costs memory for ever.
func (m *Metrics) Request(door, service, code string, d time.Duration) {
	ctx := context.Background()
	if !m.requests.Enabled(ctx) && !m.durations.Enabled(ctx) {
		return
	}
	where := []attribute.KeyValue{attribute.String("door", door), attribute.String("service", service), attribute.String("code", code)}
	m.requests.Add(ctx, 1, metric.WithAttributes(where...))
	m.durations.Record(ctx, d.Seconds(), metric.WithAttributes(where[:2]...))
}

// Timeout counts a call that a limit has ended. For the name of the service see
// [Metrics.Request].
func (m *Metrics) Timeout(service, limit string) {
	if ctx := context.Background(); m.timeouts.Enabled(ctx) {
		m.timeouts.Add(ctx, 1, metric.WithAttributes(attribute.String("service", service), attribute.String("limit", limit)))
	}
}

// observe is called when metrics are collected.
func (m *Metrics) observe(_ context.Context, o metric.Observer) error {
	m.mu.Lock()
	announcements := maps.Clone(m.announcements)
	m.mu.Unlock()
	for a, state := range announcements {
		of := metric.WithAttributes(attribute.String("service", a.service), attribute.String("instance", a.instance))
		o.ObserveInt64(m.registered, oneIf(state.Registered()), of)
		o.ObserveInt64(m.failing, oneIf(state.Err != nil), of)
	}
	m.observeListing(o)
	m.observeViews(o)
	m.observeRegistries(o)
	return nil
}

func oneIf(is bool) int64 {
	if is {
		return 1
	}
	return 0
}

// builder makes instruments and keeps their errors.
type builder struct {
	meter metric.Meter
	err   error
}

func (b *builder) counter(name, description string) metric.Int64Counter {
	c, err := b.meter.Int64Counter(name, metric.WithDescription(description))
	b.err = errors.Join(b.err, err)
	return c
}

func (b *builder) observedCounter(name, description string) metric.Int64ObservableCounter {
	c, err := b.meter.Int64ObservableCounter(name, metric.WithDescription(description))
	b.err = errors.Join(b.err, err)
	return c
}

func (b *builder) floatCounter(name, description string) metric.Float64ObservableCounter {
	c, err := b.meter.Float64ObservableCounter(name, metric.WithDescription(description))
	b.err = errors.Join(b.err, err)
	return c
}

func (b *builder) gauge(name, description string) metric.Int64ObservableGauge {
	g, err := b.meter.Int64ObservableGauge(name, metric.WithDescription(description))
	b.err = errors.Join(b.err, err)
	return g
}

func (b *builder) floatGauge(name, description string) metric.Float64ObservableGauge {
	g, err := b.meter.Float64ObservableGauge(name, metric.WithDescription(description))
	b.err = errors.Join(b.err, err)
	return g
}

func (b *builder) seconds(name, description string) metric.Float64Histogram {
	h, err := b.meter.Float64Histogram(name, metric.WithDescription(description), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	b.err = errors.Join(b.err, err)
	return h
}
