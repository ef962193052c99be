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
	// maxHearsay is how long, if no snapshot has ever listed it: it was stored
	// just before the registry lost all, or somebody has made it up.
	maxHearsay = 30 * time.Second
	// vigil is how long it is not believed that an instance has expired alone.
	// Those that expire together do so one after the other.
	vigil = 200 * time.Millisecond
	// comeback is how long one that lives may take to announce itself again,
	// when the registry is back: it tries every retrySlow at least.
	comeback = 2 * retrySlow
	// massPercent of the instances of a service, or of those in one zone of
	// it, expired within a ttl, are many.
	massPercent = 15
)

// gone is an instance that expired alone and was removed. If others follow
// within its ttl it was not alone.
type gone struct {
	rec      *record
	instance *events.Instance
	until    time.Time // when that is no longer of interest
}

// held is an instance that has expired, and is listed as if it had not until
// its vigil ends.
type held struct {
	rec   *record
	since time.Time
}

// zone is where instances are likely to lose the registry together.
type zone struct{ region, zone string }

func zoneOf(in *events.Instance) zone { return zone{in.Location.Region, in.Location.Zone} }

// tally counts the instances of a service, or of one zone of it.
type tally struct {
	listed  int // those that are kept though they have expired, too
	expired int // these
	held    int // and those of which it is not yet believed
	gone    int
}

func (t *tally) add(d tally) {
	t.listed += d.listed
	t.expired += d.expired
	t.held += d.held
	t.gone += d.gone
}

// many says whether one who expires now, and whom the tally may count already,
// is one of many.
func (t *tally) many(counted bool) bool {
	expired, all := t.expired+t.held+t.gone, t.listed+t.gone
	if !counted {
		expired++
	}
	return expired > 1 && expired*100 > all*massPercent
}

// expire decides what becomes of an instance whose lease has ended. One alone
// is dead, and removed after the vigil. When many of a service or of one of its zones expire
// together, or one does when the registry was just out of reach, ours or that of
// many, it is more likely that they could not renew their leases: they are kept as suspects until
// they come back, or their time is up; callers that can, ask them.
// A lease fires again after each ttl while nobody renews it: whoever is alone
// by then, and had the time to announce itself again, is dead.
func (v *view) expire(l *list, rec *record) {
	in, again := rec.instance, rec.expired
	v.touch(in.Service)
	l.forget()
	near, all := l.zones[zoneOf(in)].many(again), l.all.many(again)
	switch {
	case v.r.opts.NoSuspects:
		v.drop(l, rec)
	case in.Status == events.Draining: // it was leaving anyway
		v.drop(l, rec)
	case near || all:
		if !again {
			v.suspects("instances expired together, using them last", in, "expired", l.all.expired+l.all.held+l.all.gone+1)
		}
		v.troubled = time.Now()
		v.recall(l, func(other *events.Instance) bool { return all || zoneOf(other) == zoneOf(in) })
		l.keep(rec, maxSuspect)
	case !again && v.outOfReach(in):
		v.doubtful(l, rec)
	case !again:
		l.held = append(l.held, held{rec, time.Now()})
		l.count(in, tally{held: 1})
		v.watchOver()
	case time.Since(rec.suspect) >= max(in.TTL*9/10, comeback):
		v.bury(l, rec)
	}
}

// watchOver sees to it that the vigil ends.
func (v *view) watchOver() {
	if !v.watching {
		v.watching = true
		v.vigil.Reset(vigil)
	}
}

// endVigils removes those who expired alone and whom nobody has followed.
func (v *view) endVigils() {
	v.watching = false
	for _, l := range v.services {
		for _, h := range slices.Clone(l.held) {
			switch {
			case time.Since(h.since) < vigil:
			case v.outOfReach(h.rec.instance):
				l.unhold(func(rec *record) bool { return rec == h.rec })
				v.doubtful(l, h.rec)
			default:
				v.bury(l, h.rec)
			}
		}
		if len(l.held) > 0 {
			v.watchOver()
		}
	}
}

// outOfReach says whether the instance may have been unable to renew its lease:
// the registry was out of our reach within its ttl, or many others expired, as
// when the leader of the stream was lost.
func (v *view) outOfReach(in *events.Instance) bool {
	return time.Since(v.outage) <= in.TTL || time.Since(v.troubled) <= in.TTL
}

// doubtful makes a suspect of an instance that expired alone, until its lease
// fires again.
func (v *view) doubtful(l *list, rec *record) {
	in := rec.instance
	v.suspects("an instance expired just after an outage, using it last", in)
	v.touch(in.Service)
	l.keep(rec, 2*in.TTL)
}

// suspects logs that an instance is suspect: of many, one.
func (v *view) suspects(why string, in *events.Instance, more ...any) {
	log := v.r.link.Log.Debug
	if v.r.doubted.Allows(v.r.link.Clock) {
		log = v.r.link.Log.Warn
		more = append(more, "others", "are only logged for debugging, for a minute")
	}
	log(why, append([]any{"service", in.Service, "instance", in.ID}, more...)...)
}

// bury removes an instance that expired alone, and remembers it for a while.
func (v *view) bury(l *list, rec *record) {
	in := rec.instance
	v.drop(l, rec)
	l.gone = append(l.gone, gone{rec, in, time.Now().Add(in.TTL)})
	l.count(in, tally{gone: 1})
}

// recall makes suspects of those that seemed to expire alone, and lists them
// again if they were removed.
func (v *view) recall(l *list, which func(*events.Instance) bool) {
	for _, rec := range l.unhold(func(rec *record) bool { return which(rec.instance) }) {
		l.keep(rec, maxSuspect)
	}
	var back []gone
	l.release(func(g gone) bool {
		if !which(g.instance) {
			return false
		}
		back = append(back, g)
		return true
	})
	for _, g := range back {
		if v.records[g.rec.name] != g.rec {
			continue // forgotten
		}
		g.rec.instance = g.instance
		l.add(g.rec)
		l.keep(g.rec, maxSuspect)
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
	v.suspects("an instance vanished from the registry without a word, using it last", in)
	rec.suspect, rec.patience = time.Now(), maxSuspect
	v.touch(in.Service)
}

// unheard makes instances suspect that no snapshot has ever listed, unless they
// are more than those that one has: then somebody makes them up, and as suspects
// they would be most of the service, of which half is picked from in any case.
func (v *view) unheard(l *list, records []*record) {
	in, stored := records[0].instance, 0
	for _, rec := range l.records {
		if rec.stored {
			stored++
		}
	}
	madeUp := stored > 0 && l.all.listed-stored > stored
	v.r.link.Log.Warn("instances were heard of that are not in the registry", "service", in.Service, "instance", in.ID, "instances", len(records), "made_up", madeUp)
	for _, rec := range records {
		if madeUp {
			v.r.link.Counts.Forged.Add(1)
		}
		if madeUp || v.r.opts.NoSuspects {
			v.drop(l, rec)
			continue
		}
		rec.suspect, rec.patience = time.Now(), maxHearsay
	}
	v.touch(in.Service)
}

// dropSuspects removes instances that have been suspect for too long, and
// forgets services without instances.
func (v *view) dropSuspects() {
	for _, rec := range v.records {
		if !rec.suspect.IsZero() && time.Since(rec.suspect) >= rec.patience {
			if !rec.stored {
				v.r.link.Counts.Forged.Add(1)
			}
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
		l.count(rec.instance, tally{expired: 1})
	}
	rec.patience = max(rec.patience, patience)
}

// clear forgets that an instance was suspect, or has expired.
func (l *list) clear(rec *record) {
	if rec.expired {
		rec.expired = false
		l.count(rec.instance, tally{expired: -1})
	}
	rec.suspect = time.Time{}
	l.unhold(func(other *record) bool { return other == rec })
	l.release(func(g gone) bool { return g.rec == rec })
}

// forget forgets who expired alone, and has stayed so.
func (l *list) forget() {
	now := time.Now()
	l.release(func(g gone) bool { return !now.Before(g.until) })
}

// unhold takes some out of those that are held, and returns them.
func (l *list) unhold(which func(*record) bool) []*record {
	var out []*record
	l.held = slices.DeleteFunc(l.held, func(h held) bool {
		if !which(h.rec) {
			return false
		}
		out = append(out, h.rec)
		l.count(h.rec.instance, tally{held: -1})
		return true
	})
	return out
}

// release takes some out of those that are gone.
func (l *list) release(which func(gone) bool) {
	l.gone = slices.DeleteFunc(l.gone, func(g gone) bool {
		if !which(g) {
			return false
		}
		l.count(g.instance, tally{gone: -1})
		return true
	})
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

func (l *list) empty() bool { return len(l.records)+len(l.gone) == 0 }
