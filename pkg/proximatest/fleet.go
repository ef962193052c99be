// Package proximatest has a source of instances in memory, for tests of programs that use
// package selector: without NATS, without a network and without time that passes.
//
// A test makes a [Fleet], adds instances, gives a selector of it to the code under test,
// and lets instances fail, drain or move. [Fleet.Selector] measures no distances: what is
// near is what the locations say. All of it works within a bubble of testing/synctest.
package proximatest

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Fleet is a [selector.Source] whose instances a test changes. Make one with [New]. It is
// safe for concurrent use. A change is heard by all selectors before its method returns.
type Fleet struct {
	t testing.TB

	mu        sync.Mutex
	services  map[string][]events.Entry // ordered, replaced with every change
	evacuated []topology.Location
	stale     bool
	revision  uint64
	watches   map[*watch]struct{}
}

type watch struct {
	service string
	apply   func(events.Snapshot)
}

// New returns a fleet of these instances, see [Fleet.Add]. Mistakes of the test, such as an
// instance that is not there, end it.
func New(t testing.TB, instances ...events.Instance) *Fleet {
	f := &Fleet{t: t, services: map[string][]events.Entry{}, watches: map[*watch]struct{}{}}
	t.Helper()
	f.Add(instances...)
	return f
}

// Selector returns a selector of the fleet, which is closed when the test ends. Unless o
// says otherwise it measures no distances, ramps nothing up and logs nothing.
func (f *Fleet) Selector(o selector.Options) *selector.Selector {
	f.t.Helper()
	o.Source = f
	o.Probe.Kind = cmp.Or(o.Probe.Kind, selector.ProbeNone)
	o.Ramp.Up = cmp.Or(o.Ramp.Up, -1)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	s, err := selector.New(f.t.Context(), nil, o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

// Watch implements [selector.Source].
func (f *Fleet) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	w := &watch{service, apply}
	f.mu.Lock()
	f.watches[w] = struct{}{}
	apply(f.snapshotLocked(service))
	f.mu.Unlock()
	<-ctx.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watches, w)
	return ctx.Err()
}

func (f *Fleet) snapshotLocked(service string) events.Snapshot {
	return events.Snapshot{Service: service, Entries: f.services[service], Stale: f.stale}
}

// tellLocked tells all selectors what has changed; an empty service is all of them.
func (f *Fleet) tellLocked(service string) {
	for w := range f.watches {
		if service == "" || w.service == service {
			w.apply(f.snapshotLocked(w.service))
		}
	}
}

// Add lists instances. Each needs a Service and an ID; if it has no endpoint it gets the
// address <id>.example:80 for HTTP. An instance that is listed in the same place is
// replaced: a new Incarnation makes it a new process.
func (f *Fleet) Add(instances ...events.Instance) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range instances {
		if len(in.Endpoints) == 0 {
			in.Endpoints = map[string]string{events.HTTP: in.ID + ".example:80"}
		}
		data, err := events.Encode(in)
		if err != nil {
			f.t.Fatalf("proximatest: add %s: %v", in.ID, err)
		}
		added, err := events.Decode(data) // with its defaults, as a registry lists it
		if err != nil {
			f.t.Fatalf("proximatest: add %s: %v", in.ID, err)
		}
		f.put(added)
		f.tellLocked(in.Service)
	}
}

// put lists an instance in the place of the one with its key.
func (f *Fleet) put(in *events.Instance) {
	entries := slices.Clone(f.services[in.Service])
	i, found := slices.BinarySearchFunc(entries, in, func(e events.Entry, in *events.Instance) int { return e.Compare(in) })
	f.revision++
	e := events.Entry{Instance: in, Evacuated: f.isEvacuated(in), Revision: f.revision}
	if found {
		entries[i] = e
	} else {
		entries = slices.Insert(entries, i, e)
	}
	f.services[in.Service] = entries
}

// find returns the place of an instance in the list of its service.
func (f *Fleet) find(service, id string) int {
	f.t.Helper()
	i := slices.IndexFunc(f.services[service], func(e events.Entry) bool { return e.ID == id })
	if i < 0 {
		f.t.Fatalf("proximatest: service %q has no instance %q", service, id)
	}
	return i
}

// change replaces the entry of an instance.
func (f *Fleet) change(service, id string, change func(*events.Entry)) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(service, id)
	entries := slices.Clone(f.services[service])
	in := *entries[i].Instance
	entries[i].Instance = &in
	f.revision++
	entries[i].Revision = f.revision
	change(&entries[i])
	f.services[service] = entries
	f.tellLocked(service)
}

// Kill takes an instance out, as a registry does when it was deregistered or its lease has
// ended. What it does to calls in flight is the test's.
func (f *Fleet) Kill(service, id string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(service, id)
	f.services[service] = slices.Delete(slices.Clone(f.services[service]), i, i+1)
	f.tellLocked(service)
}

// Drain lists an instance as about to leave: it gets no new calls while another can take
// them.
func (f *Fleet) Drain(service, id string) { f.t.Helper(); f.setStatus(service, id, events.Draining) }

// Fail lists an instance as not ready, as its announcer does when its check fails.
func (f *Fleet) Fail(service, id string) { f.t.Helper(); f.setStatus(service, id, events.NotReady) }

// Recover lists an instance as up again, after Drain, Fail or Suspect.
func (f *Fleet) Recover(service, id string) { f.t.Helper(); f.setStatus(service, id, events.Up) }

func (f *Fleet) setStatus(service, id string, status events.Status) {
	f.t.Helper()
	f.change(service, id, func(e *events.Entry) { e.Status, e.Suspect = status, false })
}

// Suspect lists an instance as one whose lease has ended and that may still live.
func (f *Fleet) Suspect(service, id string) {
	f.t.Helper()
	f.change(service, id, func(e *events.Entry) { e.Suspect = true })
}

// Move announces an instance at another place, as one that was there all the time.
func (f *Fleet) Move(service, id string, to topology.Location) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(service, id)
	in := *f.services[service][i].Instance
	in.Location = to
	f.services[service] = slices.Delete(slices.Clone(f.services[service]), i, i+1)
	f.put(&in)
	f.tellLocked(service)
}

// Evacuate orders that the instances of a region, or of a zone if it is not empty, are used
// only when there are no others, or that this is over.
func (f *Fleet) Evacuate(region, zone string, evacuated bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	place := topology.Location{Region: region, Zone: zone}
	f.evacuated = slices.DeleteFunc(slices.Clone(f.evacuated), func(l topology.Location) bool { return l == place })
	if evacuated {
		f.evacuated = append(f.evacuated, place)
	}
	for service, entries := range f.services {
		entries = slices.Clone(entries)
		for i := range entries {
			entries[i].Evacuated = f.isEvacuated(entries[i].Instance)
		}
		f.services[service] = entries
	}
	f.tellLocked("")
}

func (f *Fleet) isEvacuated(in *events.Instance) bool {
	return slices.ContainsFunc(f.evacuated, func(l topology.Location) bool {
		return events.Evacuation{Region: l.Region, Zone: l.Zone}.Covers(in.Location)
	})
}

// Disconnect lets the registry be out of reach, or in reach again: what is listed stays, and
// selectors know that it may be old.
func (f *Fleet) Disconnect(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stale = away
	f.tellLocked("")
}
