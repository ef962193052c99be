package kv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// announcer is the goroutine of an [Announcement]; only it talks to the
// registry, one exchange at a time.
type announcer struct {
	*Announcement
	checker
	ctx  context.Context // ends with the goroutine
	stop context.CancelFunc

	revision     uint64        // of our record, 0 when not listed
	renewed      time.Time     // send time of the last accepted write; the lease is at least that new
	written      time.Time     // when the record was last written; zero: it must be
	rewrite      time.Duration // and how long until it must be again
	unsure       bool          // a write was sent and not answered
	tried        bool          // a first write without reading the key was made
	begun        time.Time
	failingSince time.Time // since when the registry has not taken what we said
	takeover     takeover

	pings *nats.Subscription // nil: they are not answered
}

func newAnnouncer(a *Announcement) *announcer {
	n := &announcer{Announcement: a, checker: newChecker(a.opts), begun: time.Now()}
	n.ctx, n.stop = context.WithCancel(context.Background())

	return n
}

func (n *announcer) run() {
	keep := n.r.keepSources()
	n.startChecks(n.ctx)
	if n.opts.Load != nil {
		n.running.Go(func() { n.beat(n.ctx) })
	}
	back := n.r.link.Conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	timer := time.NewTimer(0)
	defer func() {
		timer.Stop()
		n.r.link.Conn.RemoveStatusListener(back)
		n.answerPings(false)
		n.stop()
		n.await()
		keep()
		close(n.done)
	}()
	for {
		select {
		case <-n.busy.Done():
			n.leaveNow()
			return
		case err := <-n.results:
			if !n.checked(err) {
				continue
			}
		case <-n.updated:
			n.written = time.Time{}
		case <-back:
			timer.Reset(n.rejoinIn())
			continue
		case <-timer.C:
			n.locate()
		}
		if !n.passed {
			continue
		}
		wait, final := n.stepUntil(back)
		if final {
			return
		}
		timer.Reset(wait)
	}
}

// rejoinIn is how long to wait when the way to the registry is open again.
func (n *announcer) rejoinIn() time.Duration {
	n.failingSince = time.Time{}
	return rand.N(rejoinDelay(n.in.Load().TTL, time.Since(n.renewed)))
}

// rejoinDelay is how long that is at most, if a lease was renewed some time ago.
// All announcers come back at once and should not speak at once. An instance that
// has a lease that is about to end goes first.
func rejoinDelay(ttl, ago time.Duration) time.Duration {
	most := min(maxRejoin, ttl/3)
	if left := ttl - ago; left > 0 {
		most = min(most, left/4+1)
	}
	return most
}

// stepUntil is step, which it gives up when the connection is a new one: requests
// that were sent on the one before are not answered any more.
func (n *announcer) stepUntil(back <-chan nats.Status) (wait time.Duration, final bool) {
	ctx, giveUp := context.WithCancel(n.busy)
	var watch sync.WaitGroup
	anew := false
	watch.Go(func() {
		select {
		case <-back:
			anew = true
			giveUp()
		case <-ctx.Done():
		}
	})
	wait, final = n.step(ctx)
	giveUp()
	watch.Wait()
	if anew {
		wait = n.rejoinIn()
	}
	return wait, final
}

// step does what is due, and returns how long to wait until the next.
func (n *announcer) step(ctx context.Context) (wait time.Duration, final bool) {
	in, began := n.current(), time.Now()
	err := n.keep(ctx, in)
	n.answerPings(n.revision != 0 || n.unsure)
	if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, errWaiting) {
		return n.writeFailed(err), false
	}
	n.failingSince = time.Time{}
	switch {
	case err == nil:
		n.takeover, n.renewed = takeover{}, began
		n.set(func(s *State) {
			s.Phase, s.Status, s.Err, s.Lapsed, s.Revision = Registered, in.Status, nil, false, n.revision
		})
		return wire.Jitter(RenewEvery(in.TTL)), false
	case errors.Is(err, errReplaced):
		n.set(func(s *State) { s.Phase, s.Err, s.Lapsed, s.Revision = Replaced, err, false, 0 })
		return 0, true
	case errors.Is(err, errWaiting):
		n.set(func(s *State) { s.Phase, s.Err, s.Lapsed, s.Revision = Registering, err, false, 0 })
		return wire.Jitter(min(in.TTL/12, retryEvery)), false // if its lease ends no instance has this id
	default:
		n.set(func(s *State) { s.Phase, s.Err, s.Lapsed, s.Revision = Conflict, err, false, 0 })
		return wire.Jitter(in.TTL / 6), false
	}
}

// keep does what is due for the instance to be, or to stay, listed.
func (n *announcer) keep(ctx context.Context, in *events.Instance) error {
	var err error
	switch {
	case n.revision == 0:
		err = n.acquire(ctx, in)
	case n.written.IsZero() || time.Since(n.written) >= n.rewrite:
		err = n.write(ctx, in, n.revision)
	default:
		err = n.r.Renew(ctx, in, n.revision)
	}
	if errors.Is(err, ErrFenced) {
		err = n.fenced(ctx, in)
	}
	return err
}

// writeFailed notes that the registry did not accept a write.
func (n *announcer) writeFailed(err error) time.Duration {
	if n.failingSince.IsZero() {
		n.failingSince = time.Now()
	}
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%w: the connection was lost meanwhile", ErrUnavailable)
	}
	n.takeover = takeover{} // it may have had no way to renew its lease
	wait := min(retryEvery, n.in.Load().TTL/6)
	if time.Since(n.failingSince) > retryLong {
		wait = retrySlow
	}
	if wire.NoServer(err) {
		// Perhaps the bucket is gone.
		switch made, e := n.r.bucket.heal(n.busy); {
		case made:
			n.failingSince, wait = time.Time{}, retryEvery/5
		case e != nil && !wire.Transient(e):
			err = e // this error is more specific
		}
	}
	if n.busy.Err() == nil { // else it was interrupted: Leave was called
		n.set(func(s *State) {
			s.Err = err
			if n.revision == 0 {
				s.Phase, s.Revision = Registering, 0
			}
			s.Lapsed = s.Registered() && time.Since(n.renewed) > n.in.Load().TTL
		})
	}
	return wire.Jitter(wait)
}

// write writes the record over the given revision, and the lease. A new record is
// written after its lease: a crash between the two leaves nothing that lasts. A
// listed record has a lease and is written first: callers hear of the change sooner.
func (n *announcer) write(ctx context.Context, in *events.Instance, revision uint64) error {
	data, err := events.Encode(*in)
	if err != nil {
		return err
	}
	listed := n.revision != 0 && n.revision == revision
	if !listed {
		if err := n.r.Renew(ctx, in, revision); err != nil {
			return err
		}
	}
	n.answerPings(true) // a caller that sees the record may ping at once
	rev, err := n.r.put(ctx, in, data, revision)
	if err != nil {
		n.unsure = n.unsure || !errors.Is(err, ErrFenced)
		return err
	}
	n.revision, n.written, n.unsure = rev, time.Now(), false
	n.rewrite = wire.Jitter(RewriteAfter(in.TTL))
	if listed {
		return n.r.Renew(ctx, in, rev)
	}
	return nil
}

// locate puts the coordinate that is known by now into the record.
func (n *announcer) locate() {
	if n.opts.Locator == nil {
		return
	}
	c, ok := n.opts.Locator.Coordinate()
	if before := n.in.Load().Coordinate; !ok || before != nil && *before == c {
		return
	}
	if err := n.Update(func(in *events.Instance) { in.Coordinate = &c }); err != nil {
		n.log.Debug("the coordinate is not announced", "error", err)
		return
	}
	n.written = time.Time{} // with the next write, not one more
	select {
	case <-n.updated:
	default:
	}
}

// current is the instance as it is to be announced now.
func (n *announcer) current() *events.Instance {
	in := *n.in.Load()
	if n.health != events.Up {
		in.Status = n.health
	}
	return &in
}

// checked takes in a result of the check and reports whether there is anything to
// announce.
func (n *announcer) checked(err error) bool {
	first := !n.passed
	if !n.note(err) {
		if first && err != nil && time.Since(n.begun) >= n.opts.StartPeriod {
			n.set(func(s *State) { s.Err = fmt.Errorf("kv: the check fails: %w", err) })
		}
		return false
	}
	switch {
	case first:
		n.set(func(s *State) { s.Phase, s.Err = Registering, nil })
	case err != nil:
		n.log.Warn("the check fails", "error", err)
	}
	n.written = time.Time{}
	return true
}
