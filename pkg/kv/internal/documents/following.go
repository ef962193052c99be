package documents

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// following is the goroutine of a follower.
type following[T any] struct {
	*Follower[T]
	live   chan *nats.Msg
	result chan readResult[T]
	asking sync.WaitGroup
	due    *time.Timer

	kept    documents[T]      // what the buckets keep, or kept until they lost it
	lost    map[string]bool   // what they have lost, by the last two looks if true
	heard   documents[T]      // what they are about to keep
	undated []Document[T]     // what does not say when it was written, for other regions
	onDisk  map[string]uint64 // revisions that are saved
	again   bool              // look once more, there was news
	soon    bool              // it is due for that
	looked  time.Time         // last
	busy    bool
	fails   int // questions in a row without an answer that says what there is
}

// readResult is the answer to a question, if only that there is none.
type readResult[T any] struct {
	keys []string // that were asked for, none: all
	reading[T]
	err      error
	fromDisk bool // there was no answer, and something was on disk
}

func (r *readResult[T]) asked() []string {
	if len(r.keys) == 0 {
		return []string{""}
	}
	return r.keys
}

// about reports whether a key was asked for.
func (r *readResult[T]) about(key string) bool {
	return len(r.keys) == 0 || slices.Contains(r.keys, key)
}

func newFollowing[T any](f *Follower[T]) *following[T] {
	return &following[T]{
		Follower: f, live: make(chan *nats.Msg, liveBuffer), result: make(chan readResult[T], 1), due: time.NewTimer(0),
		kept: documents[T]{}, lost: map[string]bool{}, heard: documents[T]{}, onDisk: map[string]uint64{},
	}
}

func (f *following[T]) run(ctx context.Context) {
	status := f.link.Conn.StatusChanged(nats.CONNECTED)
	defer func() {
		f.link.Conn.RemoveStatusListener(status)
		f.due.Stop()
		f.asking.Wait()
	}()
	for _, b := range f.buckets {
		sub, err := f.link.Conn.ChanSubscribe(b.Live+f.family.Prefix+">", f.live)
		if err != nil {
			continue // the connection is closed: nothing will be heard again
		}
		defer func() { _ = sub.Unsubscribe() }() // fails as above
	}
	for {
		var read *readResult[T]
		select {
		case <-ctx.Done():
			return
		case msg := <-f.live:
			if !f.hear(msg) {
				continue
			}
			f.lookSoon()
		case <-status:
			f.lookSoon()
		case <-f.joined:
			if f.waits() {
				f.look(ctx)
			}
			continue
		case <-f.due.C:
			f.look(ctx)
		case res := <-f.result:
			f.busy, read = false, &res
			f.take(read)
		}
		f.set(ctx, f.now(), read, len(f.heard) > 0)
		if read != nil && f.waits() {
			f.due.Reset(0)
		}
	}
}

// now is what holds by all that is known.
func (f *following[T]) now() documents[T] {
	all := maps.Clone(f.kept)
	for _, h := range f.heard {
		f.add(all, h)
	}
	return all
}

// hear takes in a document as it is written, and reports whether a watch is interested.
func (f *following[T]) hear(msg *nats.Msg) bool {
	for _, b := range f.buckets {
		key, ok := strings.CutPrefix(msg.Subject, b.Live)
		if !ok {
			continue
		}
		if key, ok = f.key(b, key); !ok {
			return false
		}
		wanted := f.wanted()
		if len(wanted) > 0 && !slices.Contains(wanted, key) {
			return false
		}
		if err := f.family.Check(key); err != nil {
			f.link.Invalid(msg.Subject, err)
			return true
		}
		d := f.content(key, msg, time.Time{})
		if d.Unreadable != nil {
			f.link.Invalid(msg.Subject, d.Unreadable.Err)
			return true
		}
		if d.undated || d.At.IsZero() || len(msg.Header[wire.HdrScheduler]) > 0 {
			return true // the look tells
		}
		if h, ok := f.heard[key]; (ok || len(f.heard) < page) && (!ok || f.wins(&d, &h)) {
			d.until = time.Now().Add(unconfirmed)
			f.heard[key] = d
		}
		return true
	}
	return false
}

// lookSoon looks at the buckets after a moment in which more may be heard. Callers do
// not all look at once, and no more than every second.
func (f *following[T]) lookSoon() {
	f.again = true
	if !f.busy && !f.soon {
		f.soon = true
		f.due.Reset(max(lookDelay+rand.N(4*lookDelay), unconfirmed/2-time.Since(f.looked)))
	}
}

// look reads the buckets. A document that a bucket has lost is written again by the first
// registry that may: documents outlive the loss of the bucket, as announcements do.
func (f *following[T]) look(ctx context.Context) {
	if f.busy {
		return
	}
	f.busy, f.again, f.soon, f.looked = true, false, false, time.Now()
	var lost []Document[T]
	if f.mends() {
		lost = slices.Clone(f.undated)
		for key, twice := range f.lost {
			if twice {
				lost = append(lost, f.kept[key])
			}
		}
	}
	// An overloaded server answers all callers late.
	patience, keys := f.link.OpTimeout<<min(f.fails, 3), f.wanted()
	f.asking.Go(func() { f.ask(ctx, patience, keys, lost) })
}

// ask writes what was lost, and reads what there is.
func (f *following[T]) ask(ctx context.Context, patience time.Duration, keys []string, lost []Document[T]) {
	if len(lost) > 0 {
		writing, cancel := context.WithTimeout(ctx, patience)
		f.mend(writing, lost)
		cancel()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	found, err := f.read(ctx, keys, f.report)
	f.result <- readResult[T]{keys: keys, reading: found, err: err}
}

// take takes in what the buckets keep.
func (f *following[T]) take(res *readResult[T]) {
	next := wire.Jitter(lookEvery)
	if res.err == nil {
		f.fails = 0
		f.merge(res)
		f.save(res)
	} else {
		f.link.Log.Debug("documents cannot be read", "family", f.family.Prefix, "error", res.err)
		next = wire.Jitter(min(retryEvery<<min(f.fails, 2), lookEvery))
		f.fails++
		res.fromDisk = f.restoreFromDisk(res)
	}
	now := time.Now()
	for key, h := range f.heard {
		if kept, ok := f.kept[key]; ok && !f.wins(&h, &kept) || now.After(h.until) && res.err == nil {
			delete(f.heard, key)
		}
	}
	if len(f.heard) > 0 || len(f.lost) > 0 || f.again || len(f.undated) > 0 && f.mends() {
		next = min(next, unconfirmed/2+rand.N(unconfirmed))
	}
	f.due.Reset(next)
}

// merge puts what was read in the place of what was known. A document that vanished is kept,
// or that an older message stands in the place of: a copy may be behind. So is the last good
// one where a newer one cannot be read.
func (f *following[T]) merge(res *readResult[T]) {
	read, lost := res.documents, map[string]bool{}
	for key, was := range f.kept {
		now, ok := read[key]
		switch {
		case !res.about(key):
			delete(f.onDisk, key)
		case !ok && was.Good && !was.saved:
			was.Unreadable = nil
			read[key] = was
			_, before := f.lost[key]
			lost[key] = before
		case ok && now.Unreadable != nil && was.Good && (!now.Good && !now.Removed || f.wins(&was, &now)):
			was.Unreadable = now.Unreadable
			read[key] = was
		case ok && now.Unreadable == nil && (was.Good || was.Removed) && !was.saved && now.Revision < was.Revision && f.wins(&was, &now):
			read[key] = was
			_, before := f.lost[key]
			lost[key] = before
		case ok && now.same(&was):
			now.Value = was.Value // which is in use
			read[key] = now
		}
	}
	for key, now := range read {
		if now.Unreadable != nil && !now.Good && !now.Removed {
			if last, ok := f.load(key); ok {
				last.Unreadable = now.Unreadable
				read[key] = last
			}
		}
	}
	f.kept, f.lost, f.undated = read, lost, res.undated
}

// storedDocument is a document on disk.
type storedDocument struct {
	Revision uint64          `json:"revision"`
	At       time.Time       `json:"at"`
	Document json.RawMessage `json:"document"`
}

// save writes to disk what has changed.
func (f *following[T]) save(res *readResult[T]) {
	if f.Store == nil {
		return
	}
	for _, key := range res.keys {
		switch d, ok := f.kept[key]; {
		case ok && d.Good && (d.Unreadable != nil || f.onDisk[key] == d.Revision):
		case ok && d.Good:
			data, err := json.Marshal(storedDocument{d.Revision, d.At, d.Data})
			if err == nil { // it was decoded
				f.onDisk[key] = d.Revision
				f.Store.Save(key, data)
			}
		case !ok || d.Removed:
			delete(f.onDisk, key)
			f.Store.Save(key, nil)
		}
	}
}

// load reads what was saved under a key.
func (f *following[T]) load(key string) (Document[T], bool) {
	d := Document[T]{Key: key, Good: true, saved: true}
	if f.Store == nil {
		return d, false
	}
	data := f.Store.Load(key)
	if data == nil {
		return d, false
	}
	var stored storedDocument
	err := json.Unmarshal(data, &stored)
	if err == nil {
		d.Data, d.Revision, d.At = stored.Document, stored.Revision, stored.At
		d.Value, err = f.family.Decode(key, d.Data)
	}
	if err != nil {
		f.link.Log.Warn("a saved document cannot be used", "key", key, "error", err)
	}
	return d, err == nil
}

// restoreFromDisk begins with what was saved, where nothing was read yet, and reports whether
// there was anything.
func (f *following[T]) restoreFromDisk(res *readResult[T]) (restored bool) {
	for _, key := range res.keys {
		if _, ok := f.kept[key]; ok {
			restored = true
			continue
		}
		if d, ok := f.load(key); ok {
			f.kept[key] = d
			restored = true
		}
	}
	return restored
}
