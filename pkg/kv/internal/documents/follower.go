package documents

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/refcount"
)

// Follower tells which documents hold, for all their users in a registry. It runs while
// there is one, and reads what these ask for. It is safe for concurrent use.
type Follower[T any] struct {
	*Collection[T]
	// Store has the last good documents on disk. Nil: there are none.
	Store Store

	running refcount.Run
	joined  chan struct{} // there is a watch that waits for a look

	mu      sync.Mutex // guards what follows
	watches map[*Watch[T]]struct{}
	holding map[string]Document[T] // replaced, never changed
	asked   map[string]bool        // keys, "" for all, that a read was attempted of: true if one succeeded
}

// Store keeps documents on disk, for a start without the registry.
type Store interface {
	// Save writes what is under a key, nil: nothing.
	Save(key string, data []byte)
	// Load reads it.
	Load(key string) []byte
}

// NewFollower returns a follower of a collection. Store may be nil.
func NewFollower[T any](c *Collection[T], store Store) *Follower[T] {
	return &Follower[T]{Collection: c, Store: store, joined: make(chan struct{}, 1), watches: map[*Watch[T]]struct{}{}, asked: map[string]bool{}}
}

// Watch is one use of a follower.
type Watch[T any] struct {
	// C is written to when [Watch.Now] has something new, if only that the registry does
	// not answer.
	C chan struct{}

	of   *Follower[T]
	keys []string // none: all
}

// Join begins to follow these keys, or all of the family. End it with [Watch.Leave].
func (f *Follower[T]) Join(keys ...string) *Watch[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &Watch[T]{C: make(chan struct{}, 1), of: f, keys: keys}
	f.watches[w] = struct{}{}
	if asked, _ := f.knows(w); asked {
		w.C <- struct{}{}
	} else {
		poke(f.joined)
	}
	f.running.Join(func(ctx context.Context) { newFollowing(f).run(ctx) })
	return w
}

// Leave ends what Join began, and waits for it.
func (w *Watch[T]) Leave() {
	f := w.of
	f.mu.Lock()
	delete(f.watches, w)
	inUse := f.keysLocked()
	if len(f.watches) == 0 {
		f.holding = nil
	}
	maps.DeleteFunc(f.asked, func(key string, _ bool) bool {
		return len(f.watches) == 0 || len(inUse) > 0 && !slices.Contains(inUse, key) // what is not read again is not known
	})
	wait := f.running.Leave()
	f.mu.Unlock()
	poke(f.joined) // what was read for all may have to be read for others
	wait()
}

// Now returns the documents that hold, not to be changed, and whether they are known.
func (w *Watch[T]) Now() (map[string]Document[T], bool) {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	_, known := w.of.knows(w)
	return w.of.holding, known
}

// Last returns what holds under a key as it is known here, without a question.
func (f *Follower[T]) Last(key string) (Document[T], bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.holding[key]
	return d, ok
}

// knows reports whether a read of all that w wants was attempted, and whether one succeeded.
func (f *Follower[T]) knows(w *Watch[T]) (asked, known bool) {
	all, asked := f.asked[""]
	if asked && all || len(w.keys) == 0 {
		return asked, all
	}
	known = true
	for _, key := range w.keys {
		success, attempted := f.asked[key]
		if !attempted && !asked {
			return false, false
		}
		known = known && success
	}
	return true, known
}

// keysLocked are those that the watches want, nil: all.
func (f *Follower[T]) keysLocked() []string {
	wanted := map[string]struct{}{}
	for w := range f.watches {
		if len(w.keys) == 0 {
			return nil
		}
		for _, key := range w.keys {
			wanted[key] = struct{}{}
		}
	}
	if len(wanted) > maxKeys {
		return nil
	}
	return slices.Sorted(maps.Keys(wanted))
}

// wanted are the keys that the watches want, nil: all.
func (f *Follower[T]) wanted() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keysLocked()
}

// waits reports whether a watch waits for a read of what it wants.
func (f *Follower[T]) waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watches {
		if asked, _ := f.knows(w); !asked {
			return true
		}
	}
	return false
}

// set tells the watches for which there is something new. Keys, nil for all, were read, if
// any were, with that success.
func (f *Follower[T]) set(ctx context.Context, now map[string]Document[T], read *readResult[T], heard bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	type state struct{ asked, known bool }
	before := make(map[*Watch[T]]state, len(f.watches))
	for w := range f.watches {
		asked, known := f.knows(w)
		before[w] = state{asked, known}
	}
	if read != nil {
		for _, key := range read.asked() {
			f.asked[key] = f.asked[key] || read.err == nil || read.fromDisk
		}
	}
	if all, asked := f.asked[""]; asked && !all && heard {
		f.asked[""] = true // an order holds before all can be read
	}
	was := f.holding
	f.holding = now
	for w := range f.watches {
		asked, known := f.knows(w)
		if asked && (before[w] != state{asked, known} || w.differs(was, now)) {
			poke(w.C)
		}
	}
}

// differs reports whether two states differ in what w wants.
func (w *Watch[T]) differs(a, b map[string]Document[T]) bool {
	if len(w.keys) == 0 {
		return !maps.EqualFunc(a, b, func(a, b Document[T]) bool { return a.same(&b) })
	}
	return slices.ContainsFunc(w.keys, func(key string) bool {
		x, y := a[key], b[key]
		return !x.same(&y)
	})
}

// poke writes to a channel that is read later, too.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
