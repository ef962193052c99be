package announcing

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// longestDrain is the Drain option of all announcements: the context given to
// Leave ends the draining when the time of the entry, at that moment, is over.
const longestDrain = time.Hour

// keeper keeps the instance of an entry announced, through all changes of the
// entry. It does one thing after the other: an instance that is listed again
// while it leaves is announced when it has left.
type keeper struct {
	announcer *Announcer
	registry  *kv.Registry

	changed chan struct{} // holds one: wanted has changed

	mu     sync.Mutex // guards what follows
	wanted *Entry     // nil: the instance is to leave
	ended  bool       // run has returned, or is about to
}

// kept is what a keeper has announced.
type kept struct {
	entry        *Entry
	announcement *kv.Announcement
	ask          atomic.Pointer[check.Func]
}

// set sets the entry to be announced, nil for none. It returns false when the
// keeper has ended and cannot be used again.
func (k *keeper) set(e *Entry) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return false
	}
	k.wanted = e
	select {
	case k.changed <- struct{}{}:
	default:
	}
	return true
}

// run returns when no entry is wanted, or when ctx ends, and the instance has
// left. The end of hurry ends every draining.
func (k *keeper) run(ctx, hurry context.Context) {
	var is *kept
	for {
		select {
		case <-ctx.Done():
			if is != nil {
				is.leave(hurry, is.entry.Drain)
			}
			return
		case <-k.changed:
		}
		k.mu.Lock()
		wanted := k.wanted
		k.mu.Unlock()
		switch {
		case wanted == nil:
			if is != nil {
				is.leave(hurry, is.entry.Drain)
				k.announcer.Board.remove(is.entry.Name())
				is = nil
			}
			if k.end() {
				return
			}
		case is == nil:
			is = k.begin(wanted)
		case is.entry.same(wanted):
		case is.canBecome(wanted):
			k.update(is, wanted)
		default:
			// The same instance under another key or lease: callers may go on
			// calling it, so it does not drain.
			is.leave(hurry, 0)
			is = k.begin(wanted)
		}
	}
}

// end ends the keeper and returns true, unless an entry was set meanwhile.
func (k *keeper) end() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = k.wanted == nil
	return k.ended
}

// begin announces an entry. It returns nil when that cannot be done.
func (k *keeper) begin(e *Entry) *kept {
	is := &kept{entry: e}
	is.ask.Store(&e.Ask)
	k.announcer.List(e)
	var err error
	is.announcement, err = k.announcer.Announce(k.registry, e, kv.AnnounceOptions{Check: is.check, Drain: longestDrain})
	if err != nil {
		k.announcer.Logger.Error("cannot announce", "service", e.Instance.Service, "instance", e.Instance.ID, "error", err)
		k.announcer.Board.remove(e.Name())
		return nil
	}
	return is
}

// update changes the announcement without leaving.
func (k *keeper) update(is *kept, e *Entry) {
	is.entry = e
	is.ask.Store(&e.Ask)
	k.announcer.Board.describe(&e.Instance, e.Won)
	err := is.announcement.Update(func(in *events.Instance) {
		before := *in
		*in = e.Instance
		in.Incarnation, in.Started = before.Incarnation, before.Started
		if in.Coordinate == nil {
			in.Coordinate = before.Coordinate // measured, not listed
		}
	})
	if err != nil {
		k.announcer.Logger.Warn("not announced as listed", "service", e.Instance.Service, "instance", e.Instance.ID, "error", err)
	}
}

// check does the check of the present entry.
func (is *kept) check(ctx context.Context) error {
	if ask := *is.ask.Load(); ask != nil {
		return ask(ctx)
	}
	return nil
}

// leave waits until the announcement has ended. The board logs errors.
func (is *kept) leave(hurry context.Context, drain time.Duration) {
	ctx, cancel := context.WithTimeout(hurry, drain)
	defer cancel()
	_ = is.announcement.Leave(ctx)
}

// canBecome reports whether the announcement can be changed to e: the key, the
// lease and the incarnation must stay.
func (is *kept) canBecome(e *Entry) bool {
	a, b := &is.entry.Instance, &e.Instance
	return a.Key() == b.Key() && a.TTL == b.TTL && a.Incarnation == b.Incarnation && a.Started.Equal(b.Started)
}
