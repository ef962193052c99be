package telemetry

import (
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Stats is the source of the metrics of a selector. *[selector.Selector] is one.
type Stats interface{ Stats() selector.Stats }

// viewInstruments show the views that selectors have of services.
type viewInstruments struct {
	instances, usable, evacuated   metric.Int64ObservableGauge
	inFlight, limit, full          metric.Int64ObservableGauge
	share                          metric.Float64ObservableGauge
	suspect, dead, demoted, stale  metric.Int64ObservableGauge
	staleFor                       metric.Float64ObservableGauge
	probes, rejected, invalidBeats metric.Int64ObservableCounter
}

func newViewInstruments(b *builder) viewInstruments {
	return viewInstruments{
		instances: b.gauge("proxima_instances", "Instances listed."),
		usable:    b.gauge("proxima_usable_instances", "Instances that may be picked."),
		suspect:   b.gauge("proxima_suspect_instances", "Instances whose leases ended, most often with many others, and that nothing proves dead: they are picked last."),
		dead:      b.gauge("proxima_dead_instances", "Suspect instances that do not answer probes."),
		evacuated: b.gauge("proxima_evacuated_instances", "Instances in places that an operator evacuated: they are picked when no better one is available."),
		inFlight:  b.gauge("proxima_in_flight", "Calls in flight."),
		limit:     b.gauge("proxima_bulkhead_limit", "Calls that may be in flight to the instances of the circle together, where that is bounded."),
		full:      b.gauge("proxima_bulkhead_full_instances", "Instances that have as many calls in flight as they may, where that is bounded."),
		share:     b.floatGauge("proxima_circle_share", "Share of picks that begin in the circle, 0 to 1."),
		demoted:   b.gauge("proxima_demoted_circles", "1 while the circle is tried after one that the labels put farther away, because that one is nearer, else 0."),
		stale:     b.gauge("proxima_stale_views", "1 while the last known list of a service is used, because the registry is out of reach, else 0."),
		staleFor:  b.floatGauge("proxima_stale_view_seconds", "How long ago the registry was last heard, while the last known list of a service is used; else 0."),

		probes:       b.observedCounter("proxima_probes", "Probes begun to measure distances."),
		rejected:     b.observedCounter("proxima_rejected_samples", "Samples of other callers, or whole batches of them, that were rejected."),
		invalidBeats: b.observedCounter("proxima_invalid_beats", "Beats that were ignored because they are not valid."),
	}
}

func (v *viewInstruments) all() []metric.Observable {
	return []metric.Observable{
		v.instances, v.usable, v.suspect, v.dead, v.evacuated, v.inFlight, v.limit, v.full, v.share, v.demoted, v.stale, v.staleFor, v.probes, v.rejected, v.invalidBeats,
	}
}

// source is one call of Selector, so that a selector may be given twice.
type source struct{ stats Stats }

// shares reports whether two sources have the same stats.
func (s *source) shares(other *source) bool {
	a, ok := s.stats.(*selector.Selector)
	b, too := other.stats.(*selector.Selector)
	return ok && too && a.Shares(b)
}

// series are the attributes of a value.
type series struct{ service, circle string }

// totals are the counts of a selector for all services together.
type totals struct{ probes, rejected, invalidBeats uint64 }

func (t *totals) add(s *selector.Stats) {
	t.probes += s.Latency.Probes
	t.rejected += s.Latency.Rejected
	t.invalidBeats += s.InvalidBeats
}

// Selector shows what a selector knows, read whenever metrics are collected. Of several
// selectors in a process it shows the sums: an instance that two of them list counts
// twice, unless they share what they know, see [selector.New]: such selectors count as one.
// Of the shares of a circle it shows the mean. stop ends that, and must be called before the
// selector is closed; what was counted until then stays in the sums. A selector that is
// shown only after one that it shares with was stopped counts those calls again.
func (m *Metrics) Selector(s Stats) (stop func()) {
	src := &source{s}
	m.mu.Lock()
	m.sources[src] = struct{}{}
	m.mu.Unlock()
	return func() {
		last := s.Stats()
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, ok := m.sources[src]; !ok {
			return
		}
		delete(m.sources, src)
		for other := range m.sources {
			if src.shares(other) {
				return // it goes on to show the same
			}
		}
		for i := range last.Services {
			m.ended.add(&last.Services[i])
		}
		m.counted.add(&last)
	}
}

func (m *Metrics) observeViews(o metric.Observer) {
	m.mu.Lock()
	ended, counted := calls{maps.Clone(m.ended.circles), maps.Clone(m.ended.services), maps.Clone(m.ended.rules)}, m.counted
	var sources []*source
	for src := range m.sources {
		if !slices.ContainsFunc(sources, src.shares) {
			sources = append(sources, src)
		}
	}
	m.mu.Unlock()

	type sum struct {
		selector.Circle
		selectors float64
	}
	now := make(map[series]sum)
	stale, staleFor := make(map[string]int64), make(map[string]float64)
	for _, src := range sources {
		stats := src.stats.Stats()
		counted.add(&stats)
		for i := range stats.Services {
			svc := &stats.Services[i]
			ended.add(svc)
			stale[svc.Service] = max(stale[svc.Service], oneIf(svc.Stale))
			if !svc.StaleSince.IsZero() {
				staleFor[svc.Service] = max(staleFor[svc.Service], time.Since(svc.StaleSince).Seconds())
			}
			for _, c := range svc.Circles {
				at := series{svc.Service, c.Name}
				sum := now[at]
				sum.Instances += c.Instances
				sum.Usable += c.Usable
				sum.Suspect += c.Suspect
				sum.Dead += c.Dead
				sum.Evacuated += c.Evacuated
				sum.InFlight += c.InFlight
				sum.Limit += c.Limit
				sum.Full += c.Full
				sum.Share += c.Share
				sum.Demoted = sum.Demoted || c.Demoted
				sum.selectors++
				now[at] = sum
			}
		}
	}
	ended.observe(o, &m.calls)
	m.calls.durations.record(ended.circles)
	for at, c := range now {
		o.ObserveInt64(m.views.instances, int64(c.Instances), at.attributes())
		o.ObserveInt64(m.views.usable, int64(c.Usable), at.attributes())
		o.ObserveInt64(m.views.suspect, int64(c.Suspect), at.attributes())
		o.ObserveInt64(m.views.dead, int64(c.Dead), at.attributes())
		o.ObserveInt64(m.views.evacuated, int64(c.Evacuated), at.attributes())
		o.ObserveInt64(m.views.inFlight, int64(c.InFlight), at.attributes())
		if c.Limit > 0 {
			o.ObserveInt64(m.views.limit, int64(c.Limit), at.attributes())
			o.ObserveInt64(m.views.full, int64(c.Full), at.attributes())
		}
		o.ObserveFloat64(m.views.share, c.Share/c.selectors, at.attributes())
		o.ObserveInt64(m.views.demoted, oneIf(c.Demoted), at.attributes())
	}
	for service, n := range stale {
		of := metric.WithAttributes(attribute.String("service", service))
		o.ObserveInt64(m.views.stale, n, of)
		o.ObserveFloat64(m.views.staleFor, staleFor[service], of)
	}
	if len(sources) == 0 && counted == (totals{}) {
		return // there are no selectors here
	}
	o.ObserveInt64(m.views.probes, int64(counted.probes))
	o.ObserveInt64(m.views.rejected, int64(counted.rejected))
	o.ObserveInt64(m.views.invalidBeats, int64(counted.invalidBeats))
}

func (at series) attributes() metric.ObserveOption {
	return metric.WithAttributes(attribute.String("service", at.service), attribute.String("circle", at.circle))
}
