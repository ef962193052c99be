package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// NATS measures an empty request on a subject, usually the one where an announced
// instance answers pings: the way through the NATS servers and back, as calls over
// NATS take it. A subject without a subscriber is a failure, and known at once. If
// the connection to NATS fails, or this user may not publish on the subject, the
// error is [ErrNotProbed].
func NATS(nc *nats.Conn, subject string) Func {
	return func(ctx context.Context) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, MaxRTT)
		defer cancel()
		if nc == nil || !nc.IsConnected() {
			return 0, fmt.Errorf("%w: %s: not connected to NATS", ErrNotProbed, subject)
		}
		reconnects := nc.Stats().Reconnects
		// A quarter of the time is left to test the connection to NATS.
		ask, enough := context.WithTimeout(ctx, remaining(ctx)*3/4)
		defer enough()
		start := time.Now()
		_, err := nc.RequestWithContext(ask, subject, nil)
		rtt := time.Since(start)
		switch {
		case err == nil:
			return rtt, nil
		case errors.Is(err, nats.ErrNoResponders):
			return 0, fmt.Errorf("probe: %s: %w", subject, err)
		case !errors.Is(err, context.DeadlineExceeded):
			return 0, fmt.Errorf("%w: %s: %w", ErrNotProbed, subject, err)
		}
		if e := nc.FlushWithContext(ctx); e != nil {
			return 0, fmt.Errorf("%w: %s: NATS does not answer: %w", ErrNotProbed, subject, e)
		}
		if nc.Stats().Reconnects != reconnects {
			return 0, fmt.Errorf("%w: %s: NATS was away", ErrNotProbed, subject)
		}
		if e := nc.LastError(); errors.Is(e, nats.ErrPermissionViolation) && strings.Contains(e.Error(), `"`+subject+`"`) {
			return 0, fmt.Errorf("%w: %s: %w", ErrNotProbed, subject, e)
		}
		return 0, fmt.Errorf("probe: %s: no answer: %w", subject, err)
	}
}
