package view

import (
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// View is what is believed of one bucket: every record by its key, and for each
// service the list of those that are instances. It is not safe for concurrent
// use.
//
// Changes come in any order, from what the stream republishes and from reads
// that may be answered by a copy that lags behind. Within one life of the stream
// the higher sequence is newer. When the stream was made anew, sequences start
// again at 1: then the later time of the server decides, see [record.older].
type View struct {
	opts     Options
	seed     maphash.Seed
	records  map[string]*record // by [wire.Change].Name
	services map[string]*list
	changed  map[string]struct{} // services with something to publish
	ready    bool                // a whole snapshot has been read, or restored
	newest   uint64              // highest sequence known in this life of the stream
	verified uint64              // no change up to this sequence was missed
	outage   time.Time           // when the registry was last out of reach
	massAt   time.Time           // when instances last expired together
	graceAt  time.Time           // when the oldest pending expiry is to be decided; zero: none is pending

	evacuated []events.Evacuation // places that are evacuated

	// Of the read under way, or the last.
	full       bool   // it lists everything
	generation uint32 // number of full reads
	highest    uint64 // sequence in it
	news       bool   // it listed something that was not known
	doubt      bool   // it contradicts what was heard: another read shall decide
	disputes   []dispute

	leaderAsked bool   // before that read the stream's leader was asked for the newest message
	leaderSeq   uint64 // its sequence
}

// Options of a [View].
type Options struct {
	// Service that is watched. Empty: all.
	Service string
	// Sourced says that the bucket has what other regions wrote to theirs.
	Sourced bool
	// NoSuspects removes an instance as soon as its lease ends, even when many
	// leases end together.
	NoSuspects bool
	// Notes hears what the view notices.
	Notes Notes
}

// Notes counts and logs what a view notices. Package tail has one.
type Notes interface {
	// Invalid is called for a change whose body is not believed, with the reason.
	Invalid(key events.Key, err error)
	// Suspect is called when an instance becomes a suspect.
	Suspect(why string, in *events.Instance, args ...any)
	// Unconfirmed is called for n instances of a service whose changes were published,
	// and that no snapshot lists; in is one of them.
	Unconfirmed(in *events.Instance, n int, madeUp bool)
	// Forged is called for an instance whose change was published and never stored.
	Forged()
}

// dispute is what a second read lists otherwise than was heard.
type dispute struct {
	rec    *record
	change wire.Change
}

// record is the newest known message about one key.
type record struct {
	name       string
	instance   *events.Instance // nil: removed, or never valid
	seq        uint64
	at         int64         // the server's clock, Unix nanoseconds
	hash       uint64        // of the body
	generation uint32        // of the snapshot that listed it last, or that it came after
	missed     uint8         // snapshots in a row that contradict it
	stored     bool          // a snapshot has listed its key
	expired    bool          // its lease has ended; instance is what it was
	suspect    time.Time     // since when; zero: it is not
	patience   time.Duration // how long it may stay a suspect
}

// Finding is what a change, as it is heard, tells of other changes. The greater
// asks for more.
type Finding int

// The findings.
const (
	Fine   Finding = iota
	Missed         // some change was not heard
	Lost           // the stream lost what it had, or was made anew
)

// New returns an empty view.
func New(o Options) *View {
	return &View{
		opts: o, seed: maphash.MakeSeed(),
		records: map[string]*record{}, services: map[string]*list{}, changed: map[string]struct{}{},
	}
}

// Ready reports whether the view is complete: a snapshot was read, or restored.
func (v *View) Ready() bool { return v.ready }

// Newest is the highest sequence known in this life of the stream.
func (v *View) Newest() uint64 { return v.newest }

// Verified is the sequence up to which no change was missed.
func (v *View) Verified() uint64 { return v.verified }

// Records is how many keys are known.
func (v *View) Records() int { return len(v.records) }

// Full reports whether the read under way lists everything.
func (v *View) Full() bool { return v.full }

// Doubt reports whether the last read contradicts what was heard. Another read is
// needed, and the stream's leader is to be asked before it, see [View.Trust].
func (v *View) Doubt() bool { return v.doubt }

// Trust notes the sequence of the newest message, as the stream's leader has it:
// the next read is believed if it reaches as far.
func (v *View) Trust(seq uint64) { v.leaderAsked, v.leaderSeq = true, seq }

// Trusted reports whether [View.Trust] was called since the last full read.
func (v *View) Trusted() bool { return v.leaderAsked }

// Outage notes that the registry was out of reach until now.
func (v *View) Outage(now time.Time) { v.outage = now }

// Hear merges a change as it happens, and returns what it tells of others.
func (v *View) Hear(c *wire.Change, now time.Time) Finding {
	rec, found := v.records[c.Name], Fine
	switch {
	case rec == nil:
		if c.Last != 0 {
			found = Missed
		}
	case !rec.older(c):
		return Fine // a read was faster
	case c.Last > rec.seq:
		found = Missed
	case c.Last < rec.seq && rec.instance != nil:
		found = Lost // it was there, and then it was not
	}
	if c.Seq <= v.newest {
		found = Lost // sequences go back
	}
	v.newest = c.Seq
	v.merge(rec, c, now)
	if !v.ready {
		return Fine // the read in progress will include this change
	}
	return found
}

// older reports whether c is newer than the record.
func (rec *record) older(c *wire.Change) bool {
	if c.Seq > rec.seq {
		return true
	}
	return c.At > rec.at // a lower sequence and a later time: another life of the stream
}

// merge puts a change in the place of what was known.
func (v *View) merge(rec *record, c *wire.Change, now time.Time) *record {
	if rec == nil {
		rec = &record{name: strings.Clone(c.Name)}
		v.records[rec.name] = rec
	}
	rec.seq, rec.at, rec.missed, rec.generation = c.Seq, c.At, 0, v.generation
	if c.Err != nil {
		v.opts.Notes.Invalid(c.Key, c.Err)
		return rec // what was known stays
	}
	if c.Instance == nil && rec.instance == nil {
		return rec
	}
	l := v.list(c.Key.Service)
	switch {
	case c.Instance == nil && c.AgedOut && v.opts.Sourced:
		v.agedOut(l, rec, now)
		return rec
	case c.Instance == nil && c.Expired:
		v.expire(l, rec, now)
		return rec
	case c.Instance == nil:
		v.drop(l, rec, c.Reason, now)
		return rec
	}
	v.touch(c.Key.Service)
	l.clear(rec)
	hash := maphash.Bytes(v.seed, c.Data)
	if rec.instance != nil && hash == rec.hash {
		return rec // written again, and the same: only the revision is new
	}
	l.internMetadata(c.Instance)
	added := rec.instance == nil
	rec.instance, rec.hash = c.Instance, hash
	if added {
		l.add(rec)
	}
	return rec
}

// drop removes an instance, for a reason as in [events.Departure].
func (v *View) drop(l *list, rec *record, reason string, now time.Time) {
	v.touch(rec.instance.Service)
	l.depart(events.Departure{Key: rec.instance.Key(), Incarnation: rec.instance.Incarnation, Reason: reason, At: now})
	l.clear(rec)
	l.remove(rec)
	rec.instance = nil
}

// Begin starts to merge a read: of everything, or of the changes since the last
// one.
func (v *View) Begin(full bool) {
	v.full, v.highest, v.news, v.doubt, v.disputes = full, 0, false, false, nil
	if full {
		v.generation++
	}
}

// Reach notes that the read has come to a sequence.
func (v *View) Reach(seq uint64) { v.highest = max(v.highest, seq) }

// Confirm takes in that a read lists a message, and reports whether it is known:
// then it need not be decoded. Stamped is its time, as the server wrote it.
func (v *View) Confirm(name string, seq uint64, stamped string) bool {
	rec := v.records[name]
	if rec == nil || rec.seq != seq {
		return false
	}
	if at, err := time.Parse(time.RFC3339Nano, stamped); err != nil || at.UnixNano() != rec.at {
		return false
	}
	rec.generation, rec.missed, rec.stored = v.generation, 0, true
	if !rec.suspect.IsZero() && !rec.expired {
		rec.suspect = time.Time{}
		v.touch(rec.instance.Service)
	}
	return true
}

// List merges a message of the read.
func (v *View) List(c *wire.Change, now time.Time) {
	rec := v.records[c.Name]
	switch {
	case rec == nil || rec.older(c):
		v.news = true
		v.merge(rec, c, now).stored = true
	case !v.full || rec.generation == v.generation:
		// It changed while this was read.
	default:
		// The snapshot is behind what was heard: a copy that lags, or what
		// was heard was never stored. A second snapshot decides.
		rec.generation = v.generation
		if rec.miss() < 2 {
			v.doubt = true
		} else {
			v.disputes = append(v.disputes, dispute{rec, *c})
		}
	}
}

// miss counts the snapshots in a row that do not agree.
func (rec *record) miss() uint8 {
	rec.missed = min(rec.missed, 2) + 1
	return rec.missed
}

// End concludes a read. It reports whether a read of changes listed some that had
// been missed.
func (v *View) End(now time.Time) (missed bool) {
	if v.full {
		v.conclude(now)
	} else {
		v.newest, v.verified = max(v.newest, v.highest), max(v.verified, v.highest)
		missed = v.news
	}
	if !v.ready {
		v.ready = true
		if v.opts.Service != "" {
			v.touch(v.opts.Service) // also when it has no instances
		}
	}
	v.DropSuspects(now)
	return missed
}

// conclude decides what of a snapshot is believed. That a second one agrees is
// not enough: both may come from the same copy, one that was away and does not
// get what it missed while there is no leader. So the leader tells how far a copy
// must reach.
func (v *View) conclude(now time.Time) {
	sure := v.leaderAsked && v.highest >= v.leaderSeq
	for i := range v.disputes {
		d := &v.disputes[i]
		switch {
		case d.rec.missed < 2: // something newer came meanwhile
		case sure:
			v.merge(d.rec, &d.change, now)
			d.rec.stored = true
		default:
			v.doubt = true
		}
	}
	v.disputes, v.leaderAsked = nil, false
	above := v.sweep(sure, now)
	if !v.doubt || !v.ready {
		v.newest, v.verified = max(v.highest, above), v.highest
	}
}

// sweep looks at what a snapshot did not list, and returns the highest sequence
// of that. A removal whose mark is gone is forgotten; an instance that vanished
// without a removal becomes suspect when a second snapshot agrees.
func (v *View) sweep(sure bool, now time.Time) (highest uint64) {
	unconfirmed := map[string][]*record{} // by service
	for name, rec := range v.records {
		if rec.generation == v.generation {
			highest = max(highest, rec.seq)
			continue
		}
		if rec.instance == nil {
			delete(v.records, name)
			continue
		}
		switch {
		case rec.miss() < 2:
			v.doubt = true
		case !rec.suspect.IsZero():
		case !sure:
			v.doubt = true
		case !rec.stored:
			unconfirmed[rec.instance.Service] = append(unconfirmed[rec.instance.Service], rec)
		default:
			v.vanished(rec, now)
		}
	}
	for service, records := range unconfirmed {
		v.unconfirmed(v.list(service), records, now)
	}
	return highest
}

// Restore lists what was saved of a service, until the registry answers. Whatever
// that says of an instance is newer, and one that it does not know has vanished.
func (v *View) Restore(service string, entries []events.Entry, now time.Time) {
	l := v.list(service)
	for _, e := range entries {
		rec := &record{name: e.Key().String(), instance: e.Instance, seq: e.Revision, stored: true}
		if v.records[rec.name] != nil {
			continue // heard of already
		}
		if e.Suspect {
			rec.suspect, rec.patience = now, maxSuspect
		}
		if e.Evacuated && !covered(v.evacuated, e.Instance) {
			// Where the zone is not known, it is the region.
			v.evacuated = append(slices.Clip(v.evacuated), events.Evacuation{Region: e.Location.Region, Zone: e.Location.Zone, Evacuated: true})
		}
		v.records[rec.name] = rec
		l.add(rec)
	}
	v.touch(service)
	v.ready = true
}

// ShortestTTL of the listed instances that should be renewing their leases.
func (v *View) ShortestTTL() time.Duration {
	least := time.Duration(1<<63 - 1)
	for _, rec := range v.records {
		if rec.instance != nil && !rec.expired && rec.suspect.IsZero() {
			least = min(least, rec.instance.TTL)
		}
	}
	return least
}

// Evacuate replaces the places that are evacuated. The list is not to be changed.
func (v *View) Evacuate(places []events.Evacuation) {
	if slices.EqualFunc(v.evacuated, places, func(a, b events.Evacuation) bool { return a.Place() == b.Place() }) {
		return
	}
	v.evacuated = places
	v.TouchAll()
}

// Changed reports whether there is something to publish.
func (v *View) Changed() bool { return len(v.changed) > 0 }

func (v *View) touch(service string) { v.changed[service] = struct{}{} }

// TouchAll has every service published again.
func (v *View) TouchAll() {
	if v.opts.Service != "" {
		v.touch(v.opts.Service)
	}
	for service := range v.services {
		v.touch(service)
	}
}

// Publish calls apply for every service that has changed, in order of name, with
// all that is known of it. Stale and since go into each snapshot.
func (v *View) Publish(stale bool, since time.Time, apply func(events.Snapshot)) {
	names := make([]string, 0, len(v.changed)) // slices.Sorted would allocate more
	for service := range v.changed {
		names = append(names, service)
	}
	slices.Sort(names)
	clear(v.changed)
	for _, service := range names {
		s := events.Snapshot{Service: service, Stale: stale, StaleSince: since}
		if l := v.services[service]; l != nil {
			s.Entries, s.Left = l.entries(v.evacuated), l.departed
			if l.empty() {
				delete(v.services, service)
			}
		}
		apply(s)
	}
}
