package kv

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// view is what a watcher knows: every record by its key, and for each service
// the list of those that are instances. One goroutine uses it.
//
// Messages come in any order, from changes as they happen and from reads that
// may be answered by a copy that lags behind. Within one life of the stream the
// higher sequence is the newer. When the stream was made anew, sequences start
// again at 1: then the later time of the server tells, see [record.older].
type view struct {
	r        *Registry
	from     *wire.Bucket // where it is read
	service  string
	seed     maphash.Seed
	records  map[string]*record // by the rest of the subject: service.region.zone.id
	services map[string]*list
	changed  map[string]struct{} // services with something to publish
	ready    bool                // a whole snapshot has been read
	newest   uint64              // highest sequence known in this life of the stream
	verified uint64              // nothing up to this sequence was missed
	outage   time.Time           // when the registry was last out of reach
	left     []events.Evacuation // places that are evacuated
	stale    bool                // it is out of reach
	since    time.Time           // then: when it was last heard
	troubled time.Time           // when instances last expired together
	vigil    *time.Timer         // when to look at those who expired alone
	watching bool                // it runs

	// Of the read under way, or the last.
	full       bool   // it lists everything
	generation uint32 // number of full reads
	highest    uint64 // sequence in it
	news       bool   // it told something that was not known
	doubt      bool   // it contradicts what was heard: another shall decide
	disputed   []dispute

	judged bool   // before that read the stream's leader was asked for the newest message
	truth  uint64 // its sequence
}

// dispute is what a second read says otherwise than was heard.
type dispute struct {
	rec    *record
	change wire.Change
	msg    *nats.Msg
	err    error
}

// record is the newest known message about one key.
type record struct {
	name       string
	instance   *events.Instance // nil: removed, or never valid
	seq        uint64
	at         int64     // the server's clock, Unix nanoseconds
	hash       uint64    // of the body
	generation uint32    // of the snapshot that listed it last, or that it came after
	missed     uint8     // snapshots in a row that do not agree with it
	stored     bool      // a snapshot has listed its key: it is not only hearsay
	expired    bool      // its lease has ended; instance is what it was
	suspect    time.Time // since when; zero: it is not
	patience   time.Duration
}

// finding is what a change, as it is heard, says about others. The greater
// asks for more.
type finding int

const (
	fine   finding = iota
	missed         // some change was not heard
	lost           // the stream lost what it had, or was made anew
)

func newView(r *Registry, service string) *view {
	v := &view{
		r: r, from: &r.link.Bucket, service: service, seed: maphash.MakeSeed(), vigil: time.NewTimer(vigil),
		records: map[string]*record{}, services: map[string]*list{}, changed: map[string]struct{}{},
	}
	v.vigil.Stop()
	return v
}

// hear merges a change as it happens, and says what it tells of others.
func (v *view) hear(msg *nats.Msg) finding {
	c, err := v.from.Parse(msg)
	if err == nil || !errors.Is(err, wire.ErrFrame) {
		if name := c.Key.Inst(); msg.Subject[len(v.from.Live):] != name {
			err = fmt.Errorf("%w: a change of %s on another subject", wire.ErrFrame, name)
		}
	}
	if errors.Is(err, wire.ErrFrame) {
		v.r.link.Invalid(msg, err)
		return fine
	}
	if err == nil {
		v.r.link.Clock.Hear(c.At)
	}
	rec, found := v.records[c.Key.String()], fine
	switch {
	case rec == nil:
		if c.Last != 0 {
			found = missed
		}
	case !rec.older(&c):
		return fine // a read was faster
	case c.Last > rec.seq:
		found = missed
	case c.Last < rec.seq && rec.instance != nil:
		found = lost // it was there, and then it was not
	}
	if c.Seq <= v.newest {
		found = lost // sequences go back
	}
	v.newest = c.Seq
	v.merge(rec, &c, msg, err)
	if !v.ready {
		return fine // the read under way comes to all of it
	}
	return found
}

// older says whether c is newer than the record.
func (rec *record) older(c *wire.Change) bool {
	if c.Seq > rec.seq {
		return true
	}
	return c.At > rec.at // a lower sequence and a later time: another life of the stream
}

// merge puts a change in the place of what was known.
func (v *view) merge(rec *record, c *wire.Change, msg *nats.Msg, err error) {
	if rec == nil {
		rec = &record{name: c.Key.String()}
		v.records[rec.name] = rec
	}
	rec.seq, rec.at, rec.missed, rec.generation = c.Seq, c.At, 0, v.generation
	if err != nil {
		v.r.link.Invalid(msg, err)
		return // what was known stays
	}
	if c.Instance == nil && rec.instance == nil {
		return
	}
	l := v.list(c.Key.Service)
	switch {
	case c.Instance == nil && c.Faded && v.from.Sourced():
		v.fade(l, rec)
		return
	case c.Instance == nil && c.Expired:
		v.expire(l, rec)
		return
	case c.Instance == nil:
		v.drop(l, rec)
		return
	}
	v.touch(c.Key.Service)
	l.clear(rec)
	hash := maphash.Bytes(v.seed, msg.Data)
	if rec.instance != nil && hash == rec.hash {
		return // written again, and the same: only the revision is new
	}
	l.share(c.Instance)
	added := rec.instance == nil
	rec.instance, rec.hash = c.Instance, hash
	if added {
		l.add(rec)
	}
}

// drop removes an instance.
func (v *view) drop(l *list, rec *record) {
	v.touch(rec.instance.Service)
	l.clear(rec)
	l.remove(rec)
	rec.instance = nil
}

// begin starts to merge a read: of everything, or of the changes since the
// last one.
func (v *view) begin(full bool) {
	v.full, v.highest, v.news, v.doubt, v.disputed = full, 0, false, false, nil
	if full {
		v.generation++
	}
}

// mark merges a message of the read and returns its sequence.
func (v *view) mark(msg *nats.Msg) uint64 {
	seq, _ := wire.StampUint(msg.Header, wire.HdrSequence)
	v.highest = max(v.highest, seq)
	name := strings.TrimPrefix(wire.Stamp(msg.Header, wire.HdrSubject), v.from.Inst)
	if rec := v.records[name]; rec != nil && rec.seq == seq {
		if at, err := time.Parse(time.RFC3339Nano, wire.Stamp(msg.Header, wire.HdrTimestamp)); err == nil && at.UnixNano() == rec.at {
			v.confirm(rec)
			return seq // known: most of a read, and not worth decoding
		}
	}
	c, err := v.from.Parse(msg)
	if errors.Is(err, wire.ErrFrame) {
		v.r.link.Invalid(msg, err)
		return seq
	}
	rec := v.records[c.Key.String()]
	switch {
	case rec == nil || rec.older(&c):
		v.news = true
		v.merge(rec, &c, msg, err)
		v.records[c.Key.String()].stored = true
	case !v.full || rec.generation == v.generation:
		// It changed while this was read.
	default:
		// The snapshot is behind what was heard: a copy that lags, or what
		// was heard was never stored. A second snapshot decides.
		rec.generation = v.generation
		if rec.miss() < 2 {
			v.doubt = true
		} else {
			v.disputed = append(v.disputed, dispute{rec, c, msg, err})
		}
	}
	return seq
}

func (v *view) confirm(rec *record) {
	rec.generation, rec.missed, rec.stored = v.generation, 0, true
	if !rec.suspect.IsZero() && !rec.expired {
		rec.suspect = time.Time{}
		v.touch(rec.instance.Service)
	}
}

// miss counts the snapshots in a row that do not agree.
func (rec *record) miss() uint8 {
	rec.missed = min(rec.missed, 2) + 1
	return rec.missed
}

// end concludes a read.
func (v *view) end() {
	if v.full {
		v.conclude()
	} else {
		v.newest, v.verified = max(v.newest, v.highest), max(v.verified, v.highest)
		if v.news {
			v.r.link.Counts.Gaps.Add(1)
		}
	}
	if !v.ready {
		v.ready = true
		if v.service != "" {
			v.touch(v.service) // also when it has no instances
		}
	}
	v.dropSuspects()
}

// conclude decides what a snapshot is to be believed of. That a second one agrees
// is not enough: both may come from the same copy, one that was away and does not
// get what it missed while there is no leader. So the leader tells how far a copy
// is that has everything.
func (v *view) conclude() {
	sure := v.judged && v.highest >= v.truth
	for _, d := range v.disputed {
		switch {
		case d.rec.missed < 2: // something newer came meanwhile
		case sure:
			v.merge(d.rec, &d.change, d.msg, d.err)
			d.rec.stored = true
		default:
			v.doubt = true
		}
	}
	v.disputed, v.judged = nil, false
	above := v.sweep(sure)
	if !v.doubt || !v.ready {
		v.newest, v.verified = max(v.highest, above), v.highest
	}
}

// sweep looks at what a snapshot did not list, and returns the highest sequence
// of that. A removal that is no longer marked is forgotten; an instance that
// vanished without a word becomes suspect when a second snapshot agrees.
func (v *view) sweep(sure bool) (highest uint64) {
	hearsay := map[string][]*record{} // by service
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
			hearsay[rec.instance.Service] = append(hearsay[rec.instance.Service], rec)
		default:
			v.vanish(rec)
		}
	}
	for service, records := range hearsay {
		v.unheard(v.list(service), records)
	}
	return highest
}
