package selector

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Do calls the nearest working instance of a service. When call fails it is
// tried again on another instance, after a short random wait that grows, as
// long as there are attempts, a retry budget and time before ctx ends.
//
// Do takes a call for idempotent: one that the instance may have received is
// repeated. Where that is not so, use [Selector.DoFor] with
// [Request.NonIdempotent], or mark errors [Permanent]. The error is that of
// the last attempt, or of the pick when there was none.
func (s *Selector) Do(ctx context.Context, service string, call func(context.Context, *events.Instance) error) error {
	return s.DoFor(ctx, Request{Service: service}, call)
}

// DoFor is Do with all that can be asked for.
func (s *Selector) DoFor(ctx context.Context, r Request, call func(context.Context, *events.Instance) error) error {
	return s.DoPick(ctx, r, func(ctx context.Context, p *Pick) error {
		err := call(ctx, p.Instance)
		p.Done(err)
		return err
	})
}

// DoPick is DoFor for calls that outlast their answer, such as an HTTP
// response whose body is still to be read: call reports the end itself, with
// [Pick.Done] or [Pick.DoneAfter], if it likes after it has returned nil. When
// it returns an error and has not reported it, DoPick does; when it panics,
// the pick ends as nobody's failure.
func (s *Selector) DoPick(ctx context.Context, r Request, call func(context.Context, *Pick) error) error {
	if err := ctx.Err(); err != nil {
		return err // no instance is to blame for that
	}
	svc, err := s.service(r.Service)
	if err != nil {
		return err
	}
	svc.budget.call()
	var last error
	for {
		p, err := s.PickFor(ctx, r)
		if err != nil {
			if last != nil {
				return last
			}
			return err
		}
		if last = p.run(ctx, call); last == nil {
			return nil
		}
		r.tried = append(r.tried, p.node)
		if stop, err := s.enough(ctx, svc, &r, last); stop {
			return err
		}
	}
}

// run makes one attempt.
func (p *Pick) run(ctx context.Context, call func(context.Context, *Pick) error) error {
	err := context.Canceled // stays so if call panics: nothing can be said then
	defer func() {
		if err != nil {
			p.Done(err)
		}
	}()
	err = call(ctx, p)
	return err
}

// enough says whether the failure of an attempt is the end, and with which
// error. It waits when it is not.
func (s *Selector) enough(ctx context.Context, svc *service, r *Request, last error) (bool, error) {
	switch {
	case isPermanent(last):
		if p, ok := last.(*permanentError); ok { //nolint:errorlint // unwraps exactly what Permanent wrapped
			return true, p.error
		}
		return true, last
	case ctx.Err() != nil, isCanceled(last):
		return true, last
	case r.NonIdempotent && Sent(last):
		return true, last
	case len(r.tried) >= s.opts.Attempts:
		return true, last
	case !svc.budget.retry(s.now()):
		return true, fmt.Errorf("%w, so this is not tried again: %w", ErrBudget, last)
	}
	wait := rand.N(s.opts.Backoff<<min(len(r.tried)-1, 6) + 1)
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= wait {
		return true, last
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return true, last
	}
}
