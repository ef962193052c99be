package kv

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// One goroutine asks the server for the bucket, and gets no answer. No other one waits
// for it beyond its own context: it may have a lease to renew, or be leaving.
func TestNoGoroutineWaitsBeyondItsContextForTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bucket{link: &wire.Link{OpTimeout: 2 * time.Second}, ensuring: make(chan struct{}, 1)}
		b.ensuring <- struct{}{}
		began := time.Now()
		if made, err := b.heal(t.Context()); made || !errors.Is(err, ErrUnavailable) || time.Since(began) > 0 {
			t.Errorf("heal: %v, %v after %v", made, err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := b.ensure(ctx); !errors.Is(err, ErrUnavailable) || time.Since(began) != 50*time.Millisecond {
			t.Errorf("ensure: %v after %v", err, time.Since(began))
		}
		if err := b.ensure(t.Context()); !errors.Is(err, ErrUnavailable) || time.Since(began) > 5*time.Second {
			t.Errorf("ensure without a deadline: %v after %v", err, time.Since(began))
		}
	})
}
