package selector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Do calls the nearest working instance of a service. When call fails, Do calls
// another instance, after a short random wait that grows, as long as there are
// attempts ([Retry.Attempts]), a retry budget ([ErrBudget]) and time before ctx ends.
// Each attempt may use all of the time that ctx has left: to give up one that hangs,
// derive a context with a time-out in call.
//
// Do assumes that a call may be repeated, also one that the instance has received.
// Where that is not so, use [Selector.DoFor] with [Request.NonIdempotent], or mark
// errors as [Permanent].
//
// The error is a *[CallError] with that of the last attempt. An error marked
// [Permanent] is returned as it was before it was marked. If there was no attempt, the
// error is that of [Selector.Pick] or of ctx.
func (s *Selector) Do(ctx context.Context, service string, call func(context.Context, *events.Instance) error) error {
	return s.DoFor(ctx, Request{Service: service}, func(ctx context.Context, p *Pick) error { return call(ctx, p.Instance) })
}

// DoFor is Do for a [Request]. When call returns, its pick ends with the error that
// call returned, unless call has ended it with Done or DoneAfter, or has kept it, see
// [Pick.Keep]. When call panics, the pick ends like a canceled call.
func (s *Selector) DoFor(ctx context.Context, r Request, call func(context.Context, *Pick) error) error {
	if err := ctx.Err(); err != nil {
		return err // before any instance was called
	}
	svc, err := s.service(r.Service)
	if err != nil {
		return err
	}
	svc.budget.call()
	var last *CallError
	for {
		p, err := s.PickFor(ctx, r)
		if err != nil {
			if last != nil {
				return last
			}
			return err
		}
		if err = p.run(ctx, call); err == nil {
			return nil
		}
		if isPermanent(err) {
			return answer(err)
		}
		r.tried = append(r.tried, p.node)
		last = &CallError{Service: r.Service, Attempts: len(r.tried), Instance: p.ID, Circle: p.Circle(), Err: err}
		if s.enough(ctx, svc, &r, last) {
			return last
		}
	}
}

// run makes one attempt.
func (p *Pick) run(ctx context.Context, call func(context.Context, *Pick) error) error {
	err := context.Canceled // stays so if call panics: the outcome is not known then
	defer func() { p.Done(err) }()
	err = call(ctx, p)
	return err
}

// enough reports whether the failure of an attempt is the end. It waits when it is
// not.
func (s *Selector) enough(ctx context.Context, svc *service, r *Request, last *CallError) bool {
	switch {
	case ctx.Err() != nil, isCanceled(last.Err):
		return true
	case r.NonIdempotent && Sent(last.Err):
		return true
	case len(r.tried) >= s.opts.Retry.Attempts:
		return true
	case !svc.budget.retry(s.now()):
		last.Err = fmt.Errorf("%w, so this is not tried again: %w", ErrBudget, last.Err)
		return true
	}
	wait := rand.N(s.opts.Retry.Backoff<<min(len(r.tried)-1, 6) + 1)
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= wait {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false
	case <-ctx.Done():
		return true
	}
}

// budget bounds the retries of one service to a share of its calls, so that retries do
// not overload a service in trouble. Each call adds share, each retry takes 1; a reserve
// flows in all the time for callers that call rarely. (As Finagle's RetryBudget.)
type budget struct {
	share float64

	mu     sync.Mutex
	tokens float64
	filled time.Duration
}

const (
	reserve   = 10  // retries a second that are always allowed
	maxTokens = 100 // the most that can be saved
)

func newBudget(share float64) budget {
	return budget{share: share, tokens: reserve}
}

// call adds the share of one call.
func (b *budget) call() {
	if b.share <= 0 {
		return
	}
	b.mu.Lock()
	b.tokens = min(b.tokens+b.share, maxTokens)
	b.mu.Unlock()
}

// retry takes 1, and reports whether there was 1.
func (b *budget) retry(now time.Duration) bool {
	if b.share < 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if flow := (now - b.filled).Seconds() * reserve; flow > 0 && b.tokens < reserve {
		b.tokens = min(b.tokens+flow, reserve)
	}
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
