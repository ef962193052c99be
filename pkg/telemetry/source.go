package telemetry

import (
	"maps"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// SourceState is the state of a source that lists instances to announce, such as a file.
type SourceState struct {
	Source    string    // its kind
	At        time.Time // when it was last read and valid
	Instances int       // announced for it
	Held      int       // of these, no longer listed, and kept until that is confirmed
	Refused   uint64    // lists that were not valid
}

// sourceInstruments show the states of sources.
type sourceInstruments struct {
	instances, held metric.Int64ObservableGauge
	refused         metric.Int64ObservableCounter
	age             metric.Float64ObservableGauge
}

func newSourceInstruments(b *builder) sourceInstruments {
	return sourceInstruments{
		instances: b.gauge("proxima_source_instances", "Instances that are announced for a source."),
		held:      b.gauge("proxima_source_held_instances", "Of these, those that the source does not list any more, and that stay until it says so once more."),
		refused:   b.observedCounter("proxima_source_refused", "Lists of a source that were refused because they are not valid."),
		age:       b.floatGauge("proxima_source_age_seconds", "Time since the source was last read and valid."),
	}
}

func (i *sourceInstruments) all() []metric.Observable {
	return []metric.Observable{i.instances, i.held, i.refused, i.age}
}

// OnSource is called with every new state of a source of announcements.
func (m *Metrics) OnSource(s SourceState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.listing[s.Source] = s
}

func (m *Metrics) observeListing(o metric.Observer) {
	m.mu.Lock()
	listing := maps.Clone(m.listing)
	m.mu.Unlock()
	for _, s := range listing {
		of := metric.WithAttributes(attribute.String("source", s.Source))
		o.ObserveInt64(m.source.instances, int64(s.Instances), of)
		o.ObserveInt64(m.source.held, int64(s.Held), of)
		o.ObserveInt64(m.source.refused, int64(s.Refused), of)
		o.ObserveFloat64(m.source.age, time.Since(s.At).Seconds(), of)
	}
}
