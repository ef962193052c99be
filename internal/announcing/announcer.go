// Package announcing keeps the instances that a source lists announced.
//
// An [Entry] is one instance, with how it is announced. [Announcer.Keep] gets
// entries from a [Source] and has a keeper for each: the keeper announces the
// instance, changes the announcement when its entry has changed, and lets the
// instance leave when it has no entry any more. The [Board] has the state of every
// announcement; it logs changes and answers whether all are registered.
//
// Sources and what is known of an instance besides are packages below: file
// lists the instances of a file, check asks whether an instance works, load how
// busy it is, supervisor runs the command that it is.
package announcing

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Announcer announces instances and has their states on its board.
type Announcer struct {
	Board *Board
	// CheckInterval is the time between two checks of an instance.
	CheckInterval time.Duration
	// OnState is called after every change of an announcement's state. Of an instance
	// that moves it hears one announcement: that under the old key until the new one is
	// listed.
	OnState func(kv.State)
	// LeaveListed leaves the instances listed when Keep ends, until their leases end: the
	// next announcer takes them over without a gap.
	LeaveListed bool
	Logger      *slog.Logger
}

// List puts an instance on the board, as not registered yet.
func (a *Announcer) List(e *Entry) {
	a.Board.add(&e.Instance, e.Won)
	a.OnState(kv.State{Service: e.Instance.Service, Instance: e.Instance.ID, Phase: kv.Checking, Status: e.Instance.Status, Since: time.Now()})
}

// Announce announces an instance that is on the board. It fills in the options
// that do not depend on the instance, and the check and OnState when o has none.
func (a *Announcer) Announce(registry *kv.Registry, e *Entry, o kv.AnnounceOptions) (*kv.Announcement, error) {
	if o.Check == nil {
		o.Check = e.Ask
	}
	tell := o.OnState
	if tell == nil {
		tell = a.OnState
	}
	o.CheckInterval, o.CheckTimeout = a.CheckInterval, check.Timeout
	var announced atomic.Pointer[kv.Announcement]
	// A lease is renewed after a third of the ttl; that may take 2 s to fail.
	// The rest of the ttl must be enough for this wait and for a try by way of
	// another server.
	mover := newMover(registry.Conn(), func() time.Duration {
		ttl := e.Instance.TTL
		if now := announced.Load(); now != nil {
			ttl = now.Instance().TTL // it may have been changed
		}
		return ttl / 6
	}, a.Logger)
	key := e.Instance.Key()
	o.OnState = func(state kv.State) {
		tell(state)
		a.Board.onState(key, state)
		mover.trouble(errors.Is(state.Err, kv.ErrUnavailable) && state.Phase != kv.Left)
	}
	o.Logger = slog.New(withoutPhases{a.Logger.Handler()})
	o.Locator = latency.NewLocator()
	made, err := registry.Announce(e.Instance, o)
	announced.Store(made)
	return made, err
}
