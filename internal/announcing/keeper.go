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

// longestDrain is what the announcements of a file are made with: the context
// of their leaving ends sooner, when the file says so at that time.
const longestDrain = time.Hour

// keeper keeps announced what the file wants of one (service, id). It does one
// thing after the other: an instance that comes back while it is leaving is
// announced when it has left.
type keeper struct {
	announcer *Announcer
	registry  *kv.Registry

	changed chan struct{} // holds one: wanted is new

	mu     sync.Mutex // guards what follows
	wanted *Entry     // nil: nothing
	ended  bool       // nobody looks at wanted any more
}

// kept is what a keeper has announced.
type kept struct {
	entry        *Entry
	announcement *kv.Announcement
	ask          atomic.Pointer[check.Func]
}

// want says what is wanted from now on, nil for nothing. It returns false when
// the keeper has ended, and another one is needed.
func (k *keeper) want(e *Entry) bool {
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

// run keeps until nothing is wanted, or ctx ends. Hurry ends every draining.
func (k *keeper) run(ctx, hurry context.Context) {
	var is *kept
	for {
		select {
		case <-ctx.Done():
			if is != nil {
				is.leave(hurry, true)
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
				is.leave(hurry, true)
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
			// The same instance under another key or lease: callers need not
			// be asked to go elsewhere.
			is.leave(hurry, false)
			is = k.begin(wanted)
		}
	}
}

// end ends the keeper, unless something is wanted again.
func (k *keeper) end() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = k.wanted == nil
	return k.ended
}

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

func (k *keeper) update(is *kept, e *Entry) {
	is.entry = e
	is.ask.Store(&e.Ask)
	k.announcer.Board.describe(&e.Instance, e.Won)
	err := is.announcement.Update(func(in *events.Instance) {
		before := *in
		*in = e.Instance
		in.Incarnation, in.Started = before.Incarnation, before.Started
		if in.Coordinate == nil {
			in.Coordinate = before.Coordinate // found, not written in the file
		}
	})
	if err != nil {
		k.announcer.Logger.Warn("not announced as the file says", "service", e.Instance.Service, "instance", e.Instance.ID, "error", err)
	}
}

// check asks what the file wants to be asked now.
func (is *kept) check(ctx context.Context) error {
	if ask := *is.ask.Load(); ask != nil {
		return ask(ctx)
	}
	return nil
}

// leave waits until the announcement has ended. What went wrong is on the
// board.
func (is *kept) leave(hurry context.Context, drain bool) {
	patience := is.entry.Drain
	if !drain {
		patience = 0
	}
	ctx, cancel := context.WithTimeout(hurry, patience)
	defer cancel()
	_ = is.announcement.Leave(ctx)
}

// canBecome says whether the announcement can go on as e: its key, lease and
// incarnation stay.
func (is *kept) canBecome(e *Entry) bool {
	a, b := &is.entry.Instance, &e.Instance
	return a.Key() == b.Key() && a.TTL == b.TTL && a.Incarnation == b.Incarnation && a.Started.Equal(b.Started)
}
