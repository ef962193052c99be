package documents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
	"github.com/proxima-discovery/proxima/pkg/policy"
)

const (
	page      = 512 // documents asked for at a time
	maxPages  = 32
	maxKeys   = 256 // keys asked for by name: the whole family is, if there are more
	maxTold   = 256 // documents that are known not to be readable
	maxLogged = 16  // those of them that have log lines of their own
)

// told is what was logged of a document that cannot be read.
type told struct {
	revision uint64
	logged   time.Time
}

var (
	// ErrChanged is returned when another revision is kept than the writer knows.
	ErrChanged = errors.New("it was changed meanwhile")
	// ErrNone is returned when a document is to be removed that is not there.
	ErrNone = errors.New("there is none")
)

// Collection is the documents of a family in the buckets of a registry. It is safe for
// concurrent use.
type Collection[T any] struct {
	family  Family[T]
	link    *wire.Link
	buckets []*wire.Bucket // where they are read: the first is the link's, and only that is written
	mayMend bool           // what a bucket lost is written again

	mu     sync.Mutex
	told   map[string]told // documents that cannot be read, by subject
	denied time.Time       // when this user was last not allowed to write
}

// NewCollection returns those of these buckets. MayMend says that what a bucket lost is
// written again.
func NewCollection[T any](family Family[T], link *wire.Link, buckets []*wire.Bucket, mayMend bool) *Collection[T] {
	return &Collection[T]{family: family, link: link, buckets: buckets, mayMend: mayMend, told: map[string]told{}}
}

// documents are those that hold, by key. Regions that know of different ones agree as soon
// as each has heard of the other's: the later one of a key holds.
type documents[T any] map[string]Document[T]

// reading is what the buckets keep.
type reading[T any] struct {
	documents[T]
	own     map[string]uint64 // number of the last message in our bucket, by key
	undated []Document[T]     // in our bucket, if other regions read it
}

// wins reports whether a holds and not b. Each region stores what others wrote at a time of
// its own, so between regions a document that does not say when it was written is earlier
// than all that do.
func (c *Collection[T]) wins(a, b *Document[T]) bool {
	at := func(d *Document[T]) time.Time {
		if d.undated && len(c.buckets) > 1 {
			return time.Time{}
		}
		return d.At
	}
	switch order := at(a).Compare(at(b)); {
	case order != 0:
		return order > 0
	case a.Removed != b.Removed:
		return b.Removed
	case a.Good && c.family.Prefers != nil:
		return c.family.Prefers(a.Value, b.Value)
	}
	return bytes.Compare(a.Data, b.Data) > 0
}

// add takes in a document of another bucket, or one that was heard.
func (c *Collection[T]) add(all documents[T], d Document[T]) {
	was, known := all[d.Key]
	bad := d.Unreadable
	if was.Unreadable != nil && (bad == nil || was.Unreadable.At.After(bad.At)) {
		bad = was.Unreadable
	}
	if known && (was.Good || was.Removed) && (!d.Good && !d.Removed || !c.wins(&d, &was)) {
		d = was
	}
	if d.Unreadable = bad; bad != nil && (d.Good || d.Removed) && d.At.After(bad.At) {
		d.Unreadable = nil
	}
	all[d.Key] = d
}

// Write is what becomes of a document.
type Write struct {
	// Body is the document, if it is written at that time. Nil: it is removed.
	Body func(at time.Time) ([]byte, error)
	// If is the revision in whose place it is written, 0: there must be none. Nil: any.
	If *uint64
}

// Write writes a document with a later time than those that are known, and returns it as
// it is kept.
func (c *Collection[T]) Write(ctx context.Context, key string, w Write) (Document[T], error) {
	ctx, cancel := context.WithTimeout(ctx, 3*c.link.OpTimeout)
	defer cancel()
	d := Document[T]{Key: key}
	if err := c.family.Check(key); err != nil {
		return d, err
	}
	for range 3 {
		known, err := c.read(ctx, []string{key}, nil)
		if err != nil {
			return d, err
		}
		last := known.documents[key]
		if w.If != nil && *w.If != last.newest() {
			return d, fmt.Errorf("%w: the revision is %d, not %d", ErrChanged, last.newest(), *w.If)
		}
		if w.Body == nil && last.newest() == 0 {
			return d, ErrNone
		}
		d.At = time.Now().UTC().Truncate(time.Millisecond)
		if (last.Good || last.Removed) && !d.At.After(last.At) {
			d.At = last.At.Truncate(time.Millisecond).Add(time.Millisecond) // clocks differ; what we know of came before
		}
		if d.Removed = w.Body == nil; !d.Removed {
			if d.Data, err = w.Body(d.At); err != nil {
				return d, err
			}
			if d.Value, err = c.family.Decode(key, d.Data); err != nil {
				return d, err
			}
			d.Good = true
		}
		if err = c.put(ctx, &d, known.own[key]); !errors.Is(err, wire.ErrFenced) {
			return d, err
		}
	}
	return d, fmt.Errorf("%w: it is being written by others, too", wire.ErrUnavailable)
}

// put writes a document in the place of the message with that number, and publishes it for
// all followers.
func (c *Collection[T]) put(ctx context.Context, d *Document[T], replaces uint64) error {
	h := nats.Header{}
	if d.Removed {
		h.Set(wire.HdrOperation, wire.Purge)
	}
	if c.family.At == nil {
		h.Set(wire.HdrAt, d.At.UTC().Format(time.RFC3339Nano))
	}
	ack, err := c.link.Publish(ctx, &nats.Msg{Subject: c.link.Prefix + d.Key, Header: maps.Clone(h), Data: d.Data}, jetstream.WithExpectLastSequencePerSubject(replaces))
	if err != nil {
		return err
	}
	d.Revision = ack.Sequence
	// The bucket republishes instances only. A follower that does not hear this finds
	// the document with its next look.
	live := &nats.Msg{Subject: c.link.Live + d.Key, Data: d.Data}
	if c.family.At == nil {
		live.Header = h
		live.Header.Set(wire.HdrSequence, fmt.Sprint(d.Revision))
	}
	if err := c.link.Conn.PublishMsg(live); err == nil {
		_ = c.link.Conn.FlushWithContext(ctx)
	}
	return nil
}

// restore writes a document again, unless there is a later one, or one that cannot be read.
func (c *Collection[T]) restore(ctx context.Context, d Document[T]) error {
	var revision uint64
	msg, err := c.link.LastMsg(ctx, c.link.Prefix+d.Key)
	switch {
	case err == nil:
		if last, err := c.parse(&c.link.Bucket, msg); err == nil && (last.Unreadable != nil || !c.wins(&d, &last)) {
			return wire.ErrFenced
		}
		revision, _ = wire.StampUint(msg.Header, wire.HdrSequence)
	case !errors.Is(err, wire.ErrNotFound):
		return err
	}
	return c.put(ctx, &d, revision)
}

// mend writes documents again that a bucket has lost, or that do not say when they were
// written. It gives up where it may not, or where the registry does not answer.
func (c *Collection[T]) mend(ctx context.Context, all []Document[T]) {
	for _, d := range all {
		err := c.restore(ctx, d)
		if err == nil || errors.Is(err, wire.ErrFenced) {
			continue
		}
		if errors.Is(err, nats.ErrPermissionViolation) {
			c.mu.Lock()
			c.denied = time.Now()
			c.mu.Unlock()
		}
		c.link.Log.Debug("a document that the registry lost is not written again", "key", d.Key, "error", err)
		return
	}
}

// mends reports whether what is lost is written again by this user.
func (c *Collection[T]) mends() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mayMend && (c.denied.IsZero() || time.Since(c.denied) > deniedFor)
}

// All returns the documents that are kept now, in the order of their keys. No keys: all
// of the family.
func (c *Collection[T]) All(ctx context.Context, keys ...string) ([]Document[T], error) {
	ctx, cancel := context.WithTimeout(ctx, c.link.OpTimeout)
	defer cancel()
	found, err := c.read(ctx, keys, nil)
	if err != nil {
		return nil, err
	}
	return sorted(found.documents), nil
}

// Faults counts the documents that are kept and returns why others cannot be used, by key.
func (c *Collection[T]) Faults(ctx context.Context) (good int, faults map[string]error, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.link.OpTimeout)
	defer cancel()
	faults = map[string]error{}
	found, err := c.read(ctx, nil, func(msg *nats.Msg, err error) {
		_, key, _ := strings.Cut(wire.Stamp(msg.Header, wire.HdrSubject), "."+c.family.Prefix)
		faults[c.family.Prefix+key] = err
	})
	for _, d := range found.documents {
		if d.Good {
			good++
		}
	}
	return good, faults, err
}

// sorted are the documents in the order of their keys, without marks of removals.
func sorted[T any](all map[string]Document[T]) []Document[T] {
	var list []Document[T]
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if d := all[key]; d.Good || d.Unreadable != nil {
			list = append(list, d)
		}
	}
	return list
}

// read reads the documents under these keys, of every region. No keys: all of the family.
// Invalid is called with what cannot be read, if it is not nil.
func (c *Collection[T]) read(ctx context.Context, keys []string, invalid func(msg *nats.Msg, err error)) (reading[T], error) {
	found := reading[T]{documents: documents[T]{}, own: map[string]uint64{}}
	if invalid == nil {
		invalid = func(*nats.Msg, error) {}
	}
	for i, b := range c.buckets {
		take := func(msg *nats.Msg) {
			d, err := c.parse(b, msg)
			if i == 0 && d.Key != "" {
				found.own[d.Key], _ = wire.StampUint(msg.Header, wire.HdrSequence)
			}
			if err != nil {
				invalid(msg, err)
				return
			}
			if d.Unreadable != nil {
				invalid(msg, d.Unreadable.Err)
			}
			if i == 0 && d.undated && d.Unreadable == nil && len(c.buckets) > 1 {
				dated := d
				dated.undated = false
				found.undated = append(found.undated, dated)
			}
			c.add(found.documents, d)
		}
		subjects, all := c.subjects(b, keys), b.Prefix+c.family.Prefix+">"
		err := c.link.Read(ctx, b.Direct, wire.Get{Seq: 1, MultiLast: subjects}, 1, take)
		if errors.Is(err, wire.ErrTooMany) { // the bucket was filled with documents: go through it
			err = c.link.Read(ctx, b.Direct, wire.Get{Seq: 1, NextFor: all, Batch: page}, maxPages, take)
		}
		if errors.Is(err, nats.ErrNoResponders) {
			return found, fmt.Errorf("%w: no server has bucket %q", wire.ErrUnavailable, b.Name)
		}
		if err != nil {
			return found, fmt.Errorf("bucket %s: %w", b.Name, err)
		}
	}
	return found, nil
}

// subjects are those of these keys in a bucket.
func (c *Collection[T]) subjects(b *wire.Bucket, keys []string) []string {
	if len(keys) == 0 || len(keys) > maxKeys {
		return []string{b.Prefix + c.family.Prefix + ">"}
	}
	all := make([]string, len(keys))
	for i, key := range keys {
		all[i] = b.Prefix + key
		if b.Sourced() {
			all[i] = b.Prefix + c.family.Prefix + "*." + strings.TrimPrefix(key, c.family.Prefix)
		}
	}
	return all
}

// parse reads what a bucket keeps under a key of the family, or republishes. The error
// says that it is none of the family, or written by a schedule: no document is. A body that
// cannot be read is no error, but Unreadable.
func (c *Collection[T]) parse(b *wire.Bucket, msg *nats.Msg) (Document[T], error) {
	h := msg.Header
	key, ok := c.key(b, strings.TrimPrefix(wire.Stamp(h, wire.HdrSubject), b.Prefix))
	if !ok || wire.Stamp(h, wire.HdrStream) != b.Stream {
		return Document[T]{}, fmt.Errorf("%w: subject %.80q of stream %.80q", wire.ErrFrame, wire.Stamp(h, wire.HdrSubject), wire.Stamp(h, wire.HdrStream))
	}
	if err := c.family.Check(key); err != nil {
		return Document[T]{}, err
	}
	if len(h[wire.HdrScheduler]) > 0 {
		return Document[T]{Key: key}, wire.ErrForged
	}
	stored, err := time.Parse(time.RFC3339Nano, wire.Stamp(h, wire.HdrTimestamp))
	if err != nil {
		return Document[T]{Key: key}, fmt.Errorf("%w: %s has no time", wire.ErrFrame, key)
	}
	return c.content(key, msg, stored), nil
}

// content is what a message says, which is stored at that time.
func (c *Collection[T]) content(key string, msg *nats.Msg, stored time.Time) Document[T] {
	d := Document[T]{Key: key, At: stored}
	d.Revision, _ = wire.StampUint(msg.Header, wire.HdrSequence)
	removed := msg.Header.Get(wire.HdrOperation) != "" || msg.Header.Get(wire.HdrMarker) != ""
	var err error
	if at := msg.Header.Get(wire.HdrAt); c.family.At == nil && at == "" {
		d.undated = true
	} else if c.family.At == nil {
		if d.At, err = parseAt(at); err != nil {
			d.At = stored
		}
	}
	if err == nil && !removed {
		if d.Value, err = c.family.Decode(key, msg.Data); err == nil && c.family.At != nil {
			d.At = c.family.At(d.Value)
		}
	} else if c.family.At != nil {
		d.At = time.Time{} // where a document says when it was written, any is later than a mark
	}
	switch {
	case err != nil:
		bad := &policy.UnreadableError{Revision: d.Revision, At: d.At, Data: msg.Data, Err: err}
		return Document[T]{Key: key, Unreadable: bad}
	case removed:
		d.Removed = true
	default:
		d.Good, d.Data = true, msg.Data
	}
	return d
}

// parseAt reads the time in a header.
func parseAt(text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if y := at.UTC().Year(); err != nil || y < 1970 || y > 9998 {
		return time.Time{}, fmt.Errorf("kv: header %s %.40q: want a time such as 2026-11-21T08:00:00.123Z", wire.HdrAt, text)
	}
	return at.UTC(), nil
}

// key is the key of a document in the bucket that it was written to. Where those of several
// are read, the name of the region comes before the rest.
func (c *Collection[T]) key(b *wire.Bucket, key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, c.family.Prefix)
	if ok && b.Sourced() {
		_, rest, ok = strings.Cut(rest, ".")
	}
	return c.family.Prefix + rest, ok
}

// report counts and logs what cannot be read: each message once, and a document that is
// written again and again once a minute.
func (c *Collection[T]) report(msg *nats.Msg, err error) {
	subject := wire.Stamp(msg.Header, wire.HdrSubject)
	revision, _ := wire.StampUint(msg.Header, wire.HdrSequence)
	c.mu.Lock()
	was, known := c.told[subject]
	if known && was.revision == revision {
		c.mu.Unlock()
		return
	}
	own := (known || len(c.told) < maxLogged) && !errors.Is(err, wire.ErrFrame) && !errors.Is(err, wire.ErrForged)
	now := told{revision, was.logged}
	speak := own && time.Since(was.logged) > logAgain
	if speak {
		now.logged = time.Now()
	}
	if known || len(c.told) < maxTold {
		c.told[subject] = now
	}
	c.mu.Unlock()
	switch {
	case !own:
		c.link.Invalid(subject, err)
	case speak:
		c.link.Log.Warn("a document cannot be read, the last good one stays", "subject", subject, "revision", revision, "error", err)
		fallthrough
	default:
		c.link.Counts.Invalid.Add(1)
	}
}
