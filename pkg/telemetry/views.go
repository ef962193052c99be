package telemetry

import (
	"maps"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// Stats says what was picked. *selector.Selector is one.
type Stats interface {
	Stats() []selector.CircleStats
}

// viewInstruments show the view that selectors have of services.
type viewInstruments struct {
	picks                       metric.Int64ObservableCounter
	instances, usable, inFlight metric.Int64ObservableGauge
	stale                       metric.Int64ObservableGauge
}

func newViewInstruments(b *builder) viewInstruments {
	return viewInstruments{
		picks:     b.observedCounter("proxima_picks", "Instances picked for a call."),
		instances: b.gauge("proxima_instances", "Instances listed."),
		usable:    b.gauge("proxima_usable_instances", "Instances that may be picked."),
		inFlight:  b.gauge("proxima_in_flight", "Calls in flight."),
		stale:     b.gauge("proxima_stale_views", "1 while the last known list of a service is used, because the registry cannot be reached, else 0."),
	}
}

func (v *viewInstruments) all() []metric.Observable {
	return []metric.Observable{v.picks, v.instances, v.usable, v.inFlight, v.stale}
}

// source makes two registrations of one selector two.
type source struct{ stats Stats }

// series is what a value is told apart by.
type series struct{ service, circle string }

// Selector shows what a selector knows, read whenever somebody collects. Of
// several selectors in a process the sums are shown. Stop takes it away again,
// before the selector is closed; its picks stay counted.
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
		for _, c := range last {
			m.ended[series{c.Service, c.Circle}] += c.Picks
		}
	}
}

func (m *Metrics) observeViews(o metric.Observer) {
	m.mu.Lock()
	picks := maps.Clone(m.ended)
	sources := slices.Collect(maps.Keys(m.sources))
	m.mu.Unlock()

	now := make(map[series]selector.CircleStats)
	stale := make(map[string]int64)
	for _, src := range sources {
		for _, c := range src.stats.Stats() {
			at := series{c.Service, c.Circle}
			picks[at] += c.Picks
			sum := now[at]
			sum.Instances += c.Instances
			sum.Usable += c.Usable
			sum.InFlight += c.InFlight
			now[at] = sum
			if c.Stale {
				stale[c.Service] = 1
			} else {
				stale[c.Service] += 0
			}
		}
	}
	for at, n := range picks {
		o.ObserveInt64(m.views.picks, int64(n), at.attributes())
	}
	for at, c := range now {
		o.ObserveInt64(m.views.instances, int64(c.Instances), at.attributes())
		o.ObserveInt64(m.views.usable, int64(c.Usable), at.attributes())
		o.ObserveInt64(m.views.inFlight, int64(c.InFlight), at.attributes())
	}
	for service, n := range stale {
		o.ObserveInt64(m.views.stale, n, metric.WithAttributes(attribute.String("service", service)))
	}
}

func (at series) attributes() metric.ObserveOption {
	return metric.WithAttributes(attribute.String("service", at.service), attribute.String("circle", at.circle))
}
