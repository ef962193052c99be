package telemetry

import (
	"maps"
	"slices"

	"go.opentelemetry.io/otel/metric"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

// RegistryCounts has the counts and the health of a registry. *[kv.Registry] is one.
type RegistryCounts interface {
	Counts() kv.Counts
	Health() kv.Health
}

// registryInstruments show the counts of registries.
type registryInstruments struct {
	invalid, forged, gaps, snapshots  metric.Int64ObservableCounter
	unreadable, unwritable, fewCopies metric.Int64ObservableGauge
}

func newRegistryInstruments(b *builder) registryInstruments {
	return registryInstruments{
		invalid:   b.observedCounter("proxima_registry_invalid_messages", "Messages of the registry that were skipped because they are not valid."),
		forged:    b.observedCounter("proxima_registry_forged_messages", "Messages that were ignored because a schedule wrote what it may not, and instances that were heard of and never stored."),
		gaps:      b.observedCounter("proxima_registry_gaps", "Changes of the registry that were missed and noticed."),
		snapshots: b.observedCounter("proxima_registry_snapshots", "Snapshots read from the registry."),

		unreadable: b.gauge("proxima_registry_unreadable", "1 while the registry cannot be read, else 0."),
		unwritable: b.gauge("proxima_registry_unwritable", "1 while writes to the registry fail, such as those of leases, else 0."),
		fewCopies:  b.gauge("proxima_registry_missing_replicas", "Copies of the registry that there should be and are not."),
	}
}

func (r *registryInstruments) all() []metric.Observable {
	return []metric.Observable{r.invalid, r.forged, r.gaps, r.snapshots, r.unreadable, r.unwritable, r.fewCopies}
}

// counted is one call of Registry, so that a registry may be given twice.
type counted struct{ RegistryCounts }

// Registry shows the counts of a registry and how it is, read whenever metrics are
// collected. Of several registries in a process it shows the sums, and the worst health.
// stop ends that; the registry's last counts stay in the sums.
func (m *Metrics) Registry(r RegistryCounts) (stop func()) {
	src := &counted{r}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registries[src] = struct{}{}
	return func() {
		last := r.Counts()
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, ok := m.registries[src]; ok {
			delete(m.registries, src)
			m.read = plus(m.read, last)
		}
	}
}

func (m *Metrics) observeRegistries(o metric.Observer) {
	m.mu.Lock()
	sum := m.read
	registries := slices.Collect(maps.Keys(m.registries))
	m.mu.Unlock()
	var unreadable, unwritable, missing int64
	for _, r := range registries {
		sum = plus(sum, r.Counts())
		h := r.Health()
		unreadable = max(unreadable, oneIf(h.Err != nil))
		unwritable = max(unwritable, oneIf(h.WriteErr != nil))
		missing = max(missing, int64(h.MissingReplicas))
	}
	if len(registries) == 0 && sum == (kv.Counts{}) {
		return // no registry is read here
	}
	o.ObserveInt64(m.reads.invalid, int64(sum.Invalid))
	o.ObserveInt64(m.reads.forged, int64(sum.Forged))
	o.ObserveInt64(m.reads.gaps, int64(sum.Gaps))
	o.ObserveInt64(m.reads.snapshots, int64(sum.Snapshots))
	if len(registries) > 0 {
		o.ObserveInt64(m.reads.unreadable, unreadable)
		o.ObserveInt64(m.reads.unwritable, unwritable)
		o.ObserveInt64(m.reads.fewCopies, missing)
	}
}

func plus(a, b kv.Counts) kv.Counts {
	return kv.Counts{
		Invalid: a.Invalid + b.Invalid, Forged: a.Forged + b.Forged,
		Gaps: a.Gaps + b.Gaps, Snapshots: a.Snapshots + b.Snapshots,
	}
}
