package kv

import (
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	// maxSuspect is how long an instance is kept that vanished without a
	// word, or expired together with many others.
	maxSuspect = 10 * time.Minute
	// massPercent of a service's instances, expired within a ttl, are many.
	massPercent = 15
)

// gone is an instance that expired alone and was removed at once. If others
// follow it was not alone.
type gone struct {
	rec      *record
	instance *events.Instance
	until    time.Time // when that is no longer of interest
}

// expire decides what becomes of an instance whose lease has ended. One alone
// is dead, and removed. When many expire together, or one does when the registry
// was just out of reach, it is more likely that they could not renew their
// leases: they are kept as suspects until they come back, or their time is up.
// A lease fires again after each ttl while nobody renews it: whoever is alone
// by then is dead.
func (v *view) expire(l *list, rec *record) {
	in, again := rec.instance, rec.expired
	v.touch(in.Service)
	l.forget()
	others := l.expired + len(l.gone)
	if again {
		others--
	}
	switch {
	case v.r.opts.NoSuspects:
		v.drop(l, rec)
	case in.Status == events.Draining: // it was leaving anyway
		v.drop(l, rec)
	case others > 0 && (others+1)*100 > (len(l.records)+len(l.gone))*massPercent:
		if !again {
			v.r.log.Warn("instances expired together, using them last", "service", in.Service, "instance", in.ID, "expired", others+1)
		}
		for _, g := range l.gone {
			if v.records[g.rec.name] != g.rec {
				continue // forgotten
			}
			g.rec.instance = g.instance
			l.add(g.rec)
			l.keep(g.rec, maxSuspect)
		}
		l.gone = nil
		l.keep(rec, maxSuspect)
	case !again && time.Since(v.outage) <= in.TTL:
		v.r.log.Warn("an instance expired just after an outage, using it last", "service", in.Service, "instance", in.ID)
		l.keep(rec, 2*in.TTL)
	default:
		v.drop(l, rec)
		l.gone = append(l.gone, gone{rec, in, time.Now().Add(in.TTL)})
	}
}

// vanish makes an instance suspect that is no longer in the registry, though
// nothing was said of a removal.
func (v *view) vanish(rec *record) {
	in := rec.instance
	if v.r.opts.NoSuspects {
		v.drop(v.list(in.Service), rec)
		return
	}
	v.r.log.Warn("an instance vanished from the registry without a word, using it last", "service", in.Service, "instance", in.ID)
	rec.suspect, rec.patience = time.Now(), maxSuspect
	v.touch(in.Service)
}

// dropSuspects removes instances that have been suspect for too long, and
// forgets services without instances.
func (v *view) dropSuspects() {
	for _, rec := range v.records {
		if !rec.suspect.IsZero() && time.Since(rec.suspect) >= rec.patience {
			v.drop(v.list(rec.instance.Service), rec)
		}
	}
	for service, l := range v.services {
		l.forget()
		if _, changed := v.changed[service]; l.empty() && !changed {
			delete(v.services, service)
		}
	}
}

// keep makes an instance suspect because it has expired.
func (l *list) keep(rec *record, patience time.Duration) {
	if !rec.expired {
		rec.expired, rec.suspect, rec.patience = true, time.Now(), 0
		l.expired++
	}
	rec.patience = max(rec.patience, patience)
}

// clear forgets that an instance was suspect, or has expired.
func (l *list) clear(rec *record) {
	if rec.expired {
		rec.expired = false
		l.expired--
	}
	rec.suspect = time.Time{}
	l.gone = slices.DeleteFunc(l.gone, func(g gone) bool { return g.rec == rec })
}

// forget forgets who expired alone, and has stayed so.
func (l *list) forget() {
	now := time.Now()
	l.gone = slices.DeleteFunc(l.gone, func(g gone) bool { return !now.Before(g.until) })
}

func (l *list) empty() bool { return len(l.records)+len(l.gone) == 0 }
