package view

import (
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// expiry is an instance that expired alone. First it is pending: it is listed as if
// its lease had not ended, until its grace is over. Then it is removed. If others
// follow within its ttl it was not alone.
type expiry struct {
	rec      *record
	instance *events.Instance
	at       time.Time // when it became pending, or was removed
}

// zone is where instances are likely to lose the registry together.
type zone struct{ region, zone string }

func zoneOf(in *events.Instance) zone { return zone{in.Location.Region, in.Location.Zone} }

// tally counts the instances of a service, or of one zone of it.
type tally struct {
	listed  int // all that are kept, the expired ones too
	expired int // these
	pending int // those whose expiry is not believed yet
	removed int // those that were removed recently
}

func (t *tally) add(d tally) {
	t.listed += d.listed
	t.expired += d.expired
	t.pending += d.pending
	t.removed += d.removed
}

// many reports whether an instance that expires now is one of many. Counted says
// that the tally includes it already.
func (t *tally) many(counted bool) bool {
	expired, all := t.expired+t.pending+t.removed, t.listed+t.removed
	if !counted {
		expired++
	}
	return expired > 1 && expired*100 > all*massPercent
}

// expire decides what becomes of an instance whose lease has ended. One alone is
// dead, and removed after a grace. When many of a service or of one of its zones
// expire together, or one does just after the registry was out of reach, it is
// more likely that they could not renew their leases: they are kept as suspects
// until they come back, or their time is up. Callers that can, probe them. So is the
// last instance of a service: without it calls fail for certain, with it only if it
// is dead, and that the callers find out.
//
// The server repeats the expiry every ttl. If the instance is the only one still
// expired on a repeat, and had time to announce itself again, it is dead.
func (v *View) expire(l *list, rec *record, now time.Time) {
	in, again := rec.instance, rec.expired
	v.touch(in.Service)
	l.forget(now)
	near, all := l.zones[zoneOf(in)].many(again), l.all.many(again)
	switch {
	case v.opts.NoSuspects, in.Status == events.Draining: // that one was leaving anyway
		v.drop(l, rec, events.ReasonExpired, now)
	case near || all:
		if !again {
			v.opts.Notes.Suspect("instances expired together, using them last", in, "expired", l.all.expired+l.all.pending+l.all.removed+1)
		}
		v.massAt = now
		v.relist(l, now, func(e expiry) bool { return all || zoneOf(e.instance) == zoneOf(in) })
		l.keep(rec, maxSuspect, now)
	case l.last(rec):
		v.suspectLast(l, rec, now)
	case !again && v.outOfReach(in, now):
		v.suspectAfterOutage(l, rec, now)
	case !again:
		l.pending = append(l.pending, expiry{rec, in, now})
		l.count(in, tally{pending: 1})
		if v.graceAt.IsZero() {
			v.graceAt = now.Add(expiryGrace)
		}
	case now.Sub(rec.suspect) >= max(in.TTL*9/10, Comeback):
		v.removeExpired(l, rec, now)
	}
}

// agedOut makes an instance of another region suspect when its record was not written
// again here. Had its lease ended, that would have been heard: so its region is out
// of reach, or its registry lost it.
func (v *View) agedOut(l *list, rec *record, now time.Time) {
	if v.opts.NoSuspects {
		v.drop(l, rec, events.ReasonExpired, now)
		return
	}
	if !rec.expired {
		v.opts.Notes.Suspect("nothing is heard of an instance in another region, using it last", rec.instance, "region", rec.instance.Location.Region)
	}
	v.touch(rec.instance.Service)
	l.take(&l.pending, func(e expiry) bool { return e.rec == rec })
	l.keep(rec, maxOutOfReach, now)
}

// GraceAt is when [View.EndGrace] is to be called; zero: there is no need.
func (v *View) GraceAt() time.Time { return v.graceAt }

// EndGrace removes the instances that expired alone, if no others followed.
func (v *View) EndGrace(now time.Time) {
	v.graceAt = time.Time{}
	for _, l := range v.services {
		for _, p := range slices.Clone(l.pending) {
			switch {
			case now.Sub(p.at) < expiryGrace:
			case l.last(p.rec): // the others have left meanwhile
				l.take(&l.pending, func(e expiry) bool { return e.rec == p.rec })
				v.suspectLast(l, p.rec, now)
			case v.outOfReach(p.instance, now):
				l.take(&l.pending, func(e expiry) bool { return e.rec == p.rec })
				v.suspectAfterOutage(l, p.rec, now)
			default:
				v.removeExpired(l, p.rec, now)
			}
		}
		if len(l.pending) > 0 {
			v.graceAt = now.Add(expiryGrace)
		}
	}
}

// outOfReach reports whether the instance may have been unable to renew its lease:
// the registry was out of reach within its ttl, or many others expired, as when
// the leader of the stream was lost.
func (v *View) outOfReach(in *events.Instance, now time.Time) bool {
	return now.Sub(v.outage) <= in.TTL || now.Sub(v.massAt) <= in.TTL
}

// suspectAfterOutage makes a suspect of an instance that expired alone, until its
// expiry is repeated.
func (v *View) suspectAfterOutage(l *list, rec *record, now time.Time) {
	in := rec.instance
	v.opts.Notes.Suspect("an instance expired just after an outage, using it last", in)
	v.touch(in.Service)
	l.keep(rec, 2*in.TTL, now)
}

// suspectLast makes a suspect of the last instance of a service.
func (v *View) suspectLast(l *list, rec *record, now time.Time) {
	if !rec.expired {
		v.opts.Notes.Suspect("the last instance of a service expired, using it while it answers", rec.instance)
	}
	v.touch(rec.instance.Service)
	l.keep(rec, maxSuspect, now)
}

// removeExpired removes an instance that expired alone, and remembers it for a ttl.
func (v *View) removeExpired(l *list, rec *record, now time.Time) {
	in := rec.instance
	v.drop(l, rec, events.ReasonExpired, now)
	l.removed = append(l.removed, expiry{rec, in, now})
	l.count(in, tally{removed: 1})
}

// relist makes suspects of the instances that seemed to expire alone, and lists
// them again if they were removed.
func (v *View) relist(l *list, now time.Time, which func(expiry) bool) {
	for _, e := range l.take(&l.pending, which) {
		l.keep(e.rec, maxSuspect, now)
	}
	for _, e := range l.take(&l.removed, which) {
		if v.records[e.rec.name] != e.rec {
			continue // forgotten
		}
		e.rec.instance = e.instance
		l.add(e.rec)
		l.keep(e.rec, maxSuspect, now)
	}
}

// vanished makes an instance suspect that is no longer in the registry, though
// no removal was heard.
func (v *View) vanished(rec *record, now time.Time) {
	in := rec.instance
	if v.opts.NoSuspects {
		v.drop(v.list(in.Service), rec, "", now)
		return
	}
	v.opts.Notes.Suspect("an instance vanished from the registry without a removal, using it last", in)
	rec.suspect, rec.patience = now, maxSuspect
	v.touch(in.Service)
}

// unconfirmed makes instances suspect that no snapshot has ever listed. If unconfirmed
// instances outnumber the stored ones, they are taken for forged and dropped: as
// suspects they would be most of the service, and half of a service can always be picked.
func (v *View) unconfirmed(l *list, records []*record, now time.Time) {
	in, stored := records[0].instance, 0
	for _, rec := range l.records {
		if rec.stored {
			stored++
		}
	}
	madeUp := stored > 0 && l.all.listed-stored > stored
	v.opts.Notes.Unconfirmed(in, len(records), madeUp)
	for _, rec := range records {
		if madeUp {
			v.opts.Notes.Forged()
		}
		if madeUp || v.opts.NoSuspects {
			v.drop(l, rec, "", now)
			continue
		}
		rec.suspect, rec.patience = now, maxUnconfirmed
	}
	v.touch(in.Service)
}

// DropSuspects removes instances that have been suspect for too long, and forgets
// services without instances.
func (v *View) DropSuspects(now time.Time) {
	for _, rec := range v.records {
		if !rec.suspect.IsZero() && now.Sub(rec.suspect) >= rec.patience {
			if !rec.stored {
				v.opts.Notes.Forged()
			}
			reason := ""
			if rec.expired {
				reason = events.ReasonExpired
			}
			v.drop(v.list(rec.instance.Service), rec, reason, now)
		}
	}
	for service, l := range v.services {
		l.forget(now)
		if _, changed := v.changed[service]; l.empty() && !changed {
			delete(v.services, service)
		}
	}
}
