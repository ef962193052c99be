package selector

import (
	"context"
	"fmt"
	"math/rand/v2"
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
