// Package announcing keeps the instances that a source lists announced.
package announcing

import (
	"errors"
	"log/slog"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing/check"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Announcer announces instances and shows their states on its board.
type Announcer struct {
	Board *Board
	// CheckInterval is the time between two checks of an instance.
	CheckInterval time.Duration
	// OnState is called after every change of an announcement's state.
	OnState func(kv.State)
	Logger  *slog.Logger
}

// List puts an instance on the board, as not registered yet.
func (a *Announcer) List(e *Entry) {
	a.Board.add(&e.Instance, e.Won)
	a.OnState(kv.State{Service: e.Instance.Service, Instance: e.Instance.ID, Phase: kv.Checking, Status: e.Instance.Status, Since: time.Now()})
}

// Announce announces an instance that is on the board. Its check, and what all
// have in common, are filled in.
func (a *Announcer) Announce(registry *kv.Registry, e *Entry, o kv.AnnounceOptions) (*kv.Announcement, error) {
	if o.Check == nil {
		o.Check = e.Ask
	}
	o.CheckInterval, o.CheckTimeout = a.CheckInterval, check.Timeout
	// A lease is renewed after a third of the ttl, which may fail after 2 s:
	// what is left must do for the wait and for another server.
	mover := NewMover(registry.Conn(), e.Instance.TTL/6, a.Logger)
	o.OnState = func(state kv.State) {
		a.OnState(state)
		a.Board.onState(state)
		mover.Trouble(errors.Is(state.Err, kv.ErrUnavailable) && state.Phase != kv.Left)
	}
	o.Logger = slog.New(withoutPhases{a.Logger.Handler()})
	o.Locator = latency.NewLocator()
	return registry.Announce(e.Instance, o)
}
