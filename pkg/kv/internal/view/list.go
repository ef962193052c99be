package view

import (
	"maps"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// list is the instances of one service.
type list struct {
	records []*record
	sorted  bool // as snapshots are: once it was published
	pending []expiry
	removed []expiry // recently
	all     tally
	zones   map[zone]*tally // those with instances

	departed []events.Departure // appended to, and cut at the front, never changed: snapshots have it

	metadata map[string]string // of the instance that came last, see internMetadata
}

func (v *View) list(service string) *list {
	l := v.services[service]
	if l == nil {
		l = &list{}
		v.services[service] = l
	}
	return l
}

// internMetadata lets an instance that has just been read use the metadata of another, if
// that is the same. Most instances of a service have the same, and a map takes
// more memory than the rest of an instance.
func (l *list) internMetadata(in *events.Instance) {
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

func (l *list) entries(evacuated []events.Evacuation) []events.Entry {
	l.sort()
	entries := make([]events.Entry, len(l.records))
	for i, rec := range l.records {
		entries[i] = events.Entry{Instance: rec.instance, Suspect: !rec.suspect.IsZero(), Evacuated: covered(evacuated, rec.instance), Revision: rec.seq}
	}
	return entries
}

// covered reports whether an instance is in one of the places.
func covered(places []events.Evacuation, in *events.Instance) bool {
	return slices.ContainsFunc(places, func(e events.Evacuation) bool { return e.Covers(in.Location) })
}

// keep makes an instance suspect because its lease has ended.
func (l *list) keep(rec *record, patience time.Duration, now time.Time) {
	if !rec.expired {
		rec.expired, rec.suspect, rec.patience = true, now, 0
		l.count(rec.instance, tally{expired: 1})
	}
	rec.patience = max(rec.patience, patience)
}

// last reports whether an instance is up and no other one is.
func (l *list) last(rec *record) bool {
	return rec.instance.Status == events.Up && !slices.ContainsFunc(l.records, func(other *record) bool {
		return other != rec && other.instance.Status == events.Up
	})
}

// clear forgets that an instance was suspect, or that its lease has ended.
func (l *list) clear(rec *record) {
	if rec.expired {
		rec.expired = false
		l.count(rec.instance, tally{expired: -1})
	}
	rec.suspect = time.Time{}
	l.take(&l.pending, func(e expiry) bool { return e.rec == rec })
	l.take(&l.removed, func(e expiry) bool { return e.rec == rec })
}

// depart notes why an instance left.
func (l *list) depart(d events.Departure) {
	if l.departed = append(l.departed, d); len(l.departed) > maxDeparted {
		l.departed = l.departed[1:]
	}
}

// forget forgets the instances that were removed, once a ttl has passed, and those
// that left, once that is old.
func (l *list) forget(now time.Time) {
	l.take(&l.removed, func(e expiry) bool { return now.Sub(e.at) >= e.instance.TTL })
	old := 0
	for old < len(l.departed) && now.Sub(l.departed[old].At) >= keepDeparted {
		old++
	}
	if l.departed = l.departed[old:]; len(l.departed) == 0 {
		l.departed = nil
	}
}

// take takes out some of those that are pending, or were removed, and returns them.
func (l *list) take(from *[]expiry, which func(expiry) bool) []expiry {
	taken := tally{pending: -1}
	if from == &l.removed {
		taken = tally{removed: -1}
	}
	var out []expiry
	*from = slices.DeleteFunc(*from, func(e expiry) bool {
		if !which(e) {
			return false
		}
		out = append(out, e)
		l.count(e.instance, taken)
		return true
	})
	return out
}

// count adds to the tallies of the service and of the zone of an instance.
func (l *list) count(in *events.Instance, d tally) {
	l.all.add(d)
	z := zoneOf(in)
	t := l.zones[z]
	if t == nil {
		if l.zones == nil {
			l.zones = map[zone]*tally{}
		}
		t = new(tally)
		l.zones[z] = t
	}
	if t.add(d); *t == (tally{}) {
		delete(l.zones, z)
	}
}

func (l *list) empty() bool { return len(l.records)+len(l.removed)+len(l.departed) == 0 }
