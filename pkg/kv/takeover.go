package kv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

var (
	errReplaced = fmt.Errorf("%w: another incarnation has taken it", ErrConflict)
	errWaiting  = errors.New("kv: another incarnation has this id, waiting to see whether it lives")
)

// takeover is what is known of another incarnation that holds our id.
type takeover struct {
	incarnation string
	lease       uint64    // sequence of its lease
	since       time.Time // since when the lease has not been renewed
	lives       bool      // it was seen to be renewed
}

// acquire lists the instance when its key is free, and finds out whether it is.
// The first time it writes without reading the key: if that is taken, the server refuses.
func (n *announcer) acquire(ctx context.Context, in *events.Instance) error {
	if !n.tried && !n.unsure && n.r.guess {
		n.tried = true
		return n.write(ctx, in, 0)
	}
	last, err := n.r.last(ctx, in.Key())
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return err
	case last.Instance == nil: // the mark of a removal
	case last.Instance.Incarnation == in.Incarnation: // ours: a reply was lost
	default:
		if err := n.watchHolder(ctx, last.Instance); err != nil {
			return err
		}
	}
	return n.write(ctx, in, last.Seq)
}

// fenced finds out why the registry refused a write, and announces again unless
// another instance has our id.
func (n *announcer) fenced(ctx context.Context, in *events.Instance) error {
	last, err := n.r.last(ctx, in.Key())
	switch {
	case errors.Is(err, ErrNotFound), err == nil && last.Instance == nil:
		if n.revision != 0 {
			n.log.Info("the record was lost, announcing again", "revision", n.revision)
			n.set(func(s *State) { s.Lost++ }) // told with the new revision
		}
		n.revision = 0
	case err != nil:
		return err
	case last.Instance.Incarnation == in.Incarnation:
		if n.revision == last.Seq {
			return fmt.Errorf("%w: a copy of the bucket is behind", ErrUnavailable)
		}
		// The reply to a write was lost. What was written then may be old.
		n.revision, n.written = last.Seq, time.Time{}
	case n.revision != 0 && last.Seq > n.revision:
		n.revision = 0
		return fmt.Errorf("%w: %s", errReplaced, holder(last.Instance))
	default:
		// Another instance was faster to a free id, or to one of a stream that was
		// made anew; or a copy is so far behind that it has an incarnation before
		// ours.
		n.revision = 0
		if err := n.watchHolder(ctx, last.Instance); err != nil {
			return err
		}
	}
	err = n.write(ctx, in, last.Seq)
	if errors.Is(err, ErrFenced) {
		return fmt.Errorf("%w: the record keeps changing; retrying", ErrUnavailable)
	}
	return err
}

// watchHolder finds out whether the instance that holds our id lives: then its
// lease changes within a third of its ttl. Only the server's sequences are
// compared, no clocks. It returns nil when the id may be taken.
func (n *announcer) watchHolder(ctx context.Context, other *events.Instance) error {
	msg, err := n.r.link.LastMsg(ctx, n.r.link.Prefix+other.Key().Lease())
	var lease uint64
	switch {
	case err == nil:
		lease, _ = wire.StampUint(msg.Header, wire.HdrSequence)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	v := &n.takeover
	switch {
	case v.incarnation != other.Incarnation:
		*v = takeover{incarnation: other.Incarnation, lease: lease, since: time.Now()}
	case v.lease != lease:
		v.lease, v.since, v.lives = lease, time.Now(), true
	case time.Since(v.since) > other.TTL*4/9: // 1/3 ttl (renewal interval) + 1/9 margin
		return nil
	}
	if !v.lives {
		return fmt.Errorf("%w: %s", errWaiting, holder(other))
	}
	return fmt.Errorf("%w: %s; give each instance an id of its own", ErrConflict, holder(other))
}

// holder describes the instance that has an id.
func holder(in *events.Instance) string {
	return fmt.Sprintf("%s is used by incarnation %s at %s, started %s", in.Key(), in.Incarnation, in.Addresses(), in.Started.Format(time.RFC3339))
}
