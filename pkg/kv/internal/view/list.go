package kv

import (
	"maps"
	"slices"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// list is the instances of one service.
type list struct {
	records []*record
	sorted  bool // as snapshots are: once it was published
	held    []held
	gone    []gone
	all     tally
	zones   map[zone]*tally // those with instances

	metadata map[string]string // of who came last, see share
}

// share lets an instance that has just been read use the metadata of another, if
// that is the same. Most instances of a service have the same, and a map takes
// more memory than the rest of an instance.
func (l *list) share(in *events.Instance) {
	if maps.Equal(in.Metadata, l.metadata) {
		in.Metadata = l.metadata
	} else {
		l.metadata = in.Metadata
	}
}

func (l *list) add(rec *record) {
	l.count(rec.instance, tally{listed: 1})
	if !l.sorted {
		l.records = append(l.records, rec)
		return
	}
	i, _ := l.find(rec)
	l.records = slices.Insert(l.records, i, rec)
}

func (l *list) remove(rec *record) {
	l.count(rec.instance, tally{listed: -1})
	l.sort()
	if i, ok := l.find(rec); ok {
		l.records = slices.Delete(l.records, i, i+1)
	}
}

func (l *list) sort() {
	if !l.sorted {
		slices.SortFunc(l.records, inOrder)
		l.sorted = true
	}
}

func (l *list) find(rec *record) (int, bool) {
	return slices.BinarySearchFunc(l.records, rec, inOrder)
}

// inOrder is the order of snapshots. It is not that of names: a dot in them
// comes after a hyphen.
func inOrder(a, b *record) int { return a.instance.Compare(b.instance) }

func (l *list) entries(left []events.Evacuation) []events.Entry {
	l.sort()
	entries := make([]events.Entry, len(l.records))
	for i, rec := range l.records {
		entries[i] = events.Entry{Instance: rec.instance, Suspect: !rec.suspect.IsZero(), Evacuated: covered(left, rec.instance), Revision: rec.seq}
	}
	return entries
}

// covered says whether an instance is in one of the places.
func covered(places []events.Evacuation, in *events.Instance) bool {
	for i := range places {
		if places[i].Covers(in.Location) {
			return true
		}
	}
	return false
}

func (v *view) list(service string) *list {
	l := v.services[service]
	if l == nil {
		l = &list{}
		v.services[service] = l
	}
	return l
}

func (v *view) touch(service string) { v.changed[service] = struct{}{} }

func (v *view) touchAll() {
	if v.service != "" {
		v.touch(v.service)
	}
	for service := range v.services {
		v.touch(service)
	}
}

// publish calls apply for every service that has changed, in order of name.
func (v *view) publish(apply func(events.Snapshot)) {
	names := make([]string, 0, len(v.changed))
	for service := range v.changed {
		names = append(names, service)
	}
	slices.Sort(names)
	clear(v.changed)
	for _, service := range names {
		s := events.Snapshot{Service: service, Stale: v.stale, StaleSince: v.since}
		if l := v.services[service]; l != nil {
			s.Entries = l.entries(v.left)
			if l.empty() {
				delete(v.services, service)
			}
		}
		if v.r.stores[v.from] != nil && !v.stale {
			v.r.stores[v.from].save(s)
		}
		apply(s)
	}
}
