package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// leaveNow drains and deregisters, or renews the lease for the last time.
func (n *announcer) leaveNow() {
	in := n.current()
	var err error
	released := n.released.Load() && n.revision != 0
	if released {
		if err = n.within(n.r.link.OpTimeout/2, n.keep, in); err != nil {
			err = fmt.Errorf("kv: the lease of %s was not renewed for the last time: %w", in.Key(), err)
		}
	} else {
		n.drain(in)
		if err = n.deregister(in); err != nil {
			err = fmt.Errorf("kv: %s was not deregistered, its lease ends by itself: %w", in.Key(), err)
		}
	}
	n.mu.Lock()
	n.leaveErr = err
	n.mu.Unlock()
	n.set(func(s *State) { s.Phase, s.Err, s.Revision, s.Released = Left, err, 0, released })
}

// drain announces that the instance is about to leave and waits, and keeps it
// listed, until its calls have ended or Drain is over.
func (n *announcer) drain(in *events.Instance) {
	if n.opts.Drain <= 0 {
		return
	}
	if n.revision == 0 && n.unsure {
		_ = n.within(n.r.link.OpTimeout/2, func(ctx context.Context, in *events.Instance) error {
			_, _, err := n.ours(ctx, in) // else it stays 0
			return err
		}, in)
	}
	if n.revision == 0 {
		return // no caller knows it
	}
	in.Status = events.Draining
	n.written = time.Time{}
	if err := n.within(n.r.link.OpTimeout, n.keep, in); err != nil {
		return // no caller has heard of it: waiting would not help
	}
	n.set(func(s *State) { s.Phase, s.Status, s.Err, s.Revision = Draining, events.Draining, nil, n.revision })
	began := time.Now()
	over := time.NewTimer(n.opts.Drain)
	defer over.Stop()
	renew := time.NewTicker(RenewEvery(in.TTL))
	defer renew.Stop()
	look := time.NewTicker(propagate / 5)
	defer look.Stop()
	for {
		select {
		case <-over.C:
			return
		case <-n.draining.Done():
			return
		case <-renew.C:
			// A lease that cannot be renewed ends no sooner than our calls.
			if err := n.within(n.r.link.OpTimeout/2, n.keep, in); errors.Is(err, ErrConflict) {
				return
			}
		case <-look.C:
			if n.opts.InFlight != nil && time.Since(began) >= propagate && n.opts.InFlight() == 0 {
				return
			}
		}
	}
}

// within bounds what is done for in.
func (n *announcer) within(limit time.Duration, do func(context.Context, *events.Instance) error, in *events.Instance) error {
	ctx, cancel := context.WithTimeout(n.ctx, limit)
	defer cancel()
	return do(ctx, in)
}

// deregister tries more than once, so that one lost message leaves no ghost. A
// write that was not answered may still be on its way, and what is read may be older
// than it: the mark of the removal is then written over whatever was read, and the
// server refuses the write when it comes.
func (n *announcer) deregister(in *events.Instance) error {
	if n.revision == 0 && !n.unsure {
		return nil
	}
	ctx, cancel := context.WithTimeout(n.ctx, 3*n.r.link.OpTimeout/2)
	defer cancel()
	var err error
	over := n.revision
	for range 3 {
		if n.revision == 0 || errors.Is(err, ErrFenced) {
			var free bool
			if over, free, err = n.ours(ctx, in); err != nil {
				continue
			}
			if n.revision == 0 && (!free || !n.unsure) {
				return nil // gone already, or another instance has the id
			}
		}
		if err = n.r.Deregister(ctx, in, over); err == nil {
			return nil
		}
	}
	return err
}

// ours looks up the revision of our own record after a lost reply; it is 0 when
// there is none. It returns the revision of what the key holds now, and whether no
// other instance has it.
func (n *announcer) ours(ctx context.Context, in *events.Instance) (over uint64, free bool, err error) {
	last, err := n.r.last(ctx, in.Key())
	switch {
	case errors.Is(err, ErrNotFound):
		n.revision = 0
		return 0, true, nil
	case err != nil:
		return 0, false, err
	case last.Instance == nil || last.Instance.Incarnation != in.Incarnation:
		n.revision = 0
	default:
		n.revision = last.Seq
	}
	return last.Seq, last.Instance == nil || n.revision != 0, nil
}
