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
// while it leaves is announced when it has left. An instance that moves to another
// region or zone is listed in both places for a moment, rather than in none.
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
	silent       atomic.Bool // another announcement of the instance is the one that is told of
	ready        chan bool   // holds one: it is listed, or will not be
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
	var is, next *kept // next takes the place of is as soon as it is listed
	for {
		select {
		case <-ctx.Done():
			k.leave(hurry, next, 0)
			switch {
			case is == nil:
			case k.announcer.LeaveListed:
				_ = is.announcement.Release(hurry) // the board logs errors
			default:
				is.leave(hurry, is.entry.Drain)
			}
			return
		case ok := <-next.listed():
			next.ready <- ok // for leave
			if !ok {
				k.leave(hurry, next, 0)
			} else {
				is.silent.Store(true)
				next.silent.Store(false)
				k.announcer.OnState(next.announcement.State())
				// The same instance under another key: callers may go on calling it,
				// so it does not drain.
				k.leave(hurry, is, 0)
				is = next
			}
			next = nil
			continue
		case <-k.changed:
		}
		k.mu.Lock()
		wanted := k.wanted
		k.mu.Unlock()
		switch {
		case wanted == nil:
			k.leave(hurry, next, 0)
			if is != nil {
				k.leave(hurry, is, is.entry.Drain)
			}
			is, next = nil, nil
			if k.end() {
				return
			}
		case is == nil:
			is = k.begin(wanted, false)
		case next != nil && next.entry.same(wanted):
		case next != nil && next.canBecome(wanted):
			k.update(next, wanted)
		default:
			k.leave(hurry, next, 0)
			is, next = k.change(hurry, is, wanted)
		}
	}
}

// change makes is what is wanted. If that is only possible by another announcement, next
// is to take the place of is when it is listed.
func (k *keeper) change(hurry context.Context, is *kept, wanted *Entry) (now, next *kept) {
	switch {
	case is.entry.same(wanted):
	case is.canBecome(wanted):
		k.update(is, wanted)
	case is.entry.Instance.Key() != wanted.Instance.Key() && is.announcement.State().Registered():
		k.announcer.Logger.Info("the instance moves: it stays where it is until it is registered there",
			"service", wanted.Instance.Service, "instance", wanted.Instance.ID,
			"from", is.entry.Instance.Location.String(), "to", wanted.Instance.Location.String())
		next = k.begin(wanted, true)
	default: // another life under the same key, or no caller knows it yet
		k.leave(hurry, is, 0)
		is = k.begin(wanted, false)
	}
	return is, next
}

// end ends the keeper and returns true, unless an entry was set meanwhile.
func (k *keeper) end() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = k.wanted == nil
	return k.ended
}

// begin announces an entry. It returns nil when that cannot be done. A moving instance is
// announced elsewhere until this announcement is listed.
func (k *keeper) begin(e *Entry, moving bool) *kept {
	is := &kept{entry: e}
	is.ask.Store(&e.Ask)
	is.silent.Store(moving)
	if moving {
		k.announcer.Board.add(&e.Instance, e.Won)
	} else {
		k.announcer.List(e)
	}
	var err error
	is.announcement, err = k.announcer.Announce(k.registry, e, kv.AnnounceOptions{
		Check: is.check, Drain: longestDrain,
		OnState: func(s kv.State) {
			if !is.silent.Load() {
				k.announcer.OnState(s)
			}
		},
	})
	if err != nil {
		k.announcer.Logger.Error("cannot announce", "service", e.Instance.Service, "instance", e.Instance.ID, "error", err)
		k.announcer.Board.remove(e.Instance.Key())
		return nil
	}
	if moving {
		is.ready = make(chan bool, 1)
		go func() { is.ready <- is.announcement.Ready(context.Background()) == nil }() // ends with the announcement at the latest; leave waits for it
	}
	return is
}

// listed is where it is said that the announcement of an instance that moves is listed, or
// has ended before.
func (is *kept) listed() <-chan bool {
	if is == nil {
		return nil
	}
	return is.ready
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
		k.announcer.Logger.Warn("cannot update the announcement: the instance stays announced as it was", "service", e.Instance.Service, "instance", e.Instance.ID, "error", err)
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
	if is.ready != nil {
		<-is.ready // its goroutine has ended
	}
}

// leave also takes the announcement off the board. There may be none.
func (k *keeper) leave(hurry context.Context, is *kept, drain time.Duration) {
	if is == nil {
		return
	}
	is.leave(hurry, drain)
	k.announcer.Board.remove(is.entry.Instance.Key())
}

// canBecome reports whether the announcement can be changed to e: the key and the
// incarnation must stay.
func (is *kept) canBecome(e *Entry) bool {
	a, b := &is.entry.Instance, &e.Instance
	return a.Key() == b.Key() && a.Incarnation == b.Incarnation && a.Started.Equal(b.Started)
}
