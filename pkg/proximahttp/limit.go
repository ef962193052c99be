package proximahttp

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// limiter knows the time limits of calls to a service. *[selector.Selector] is one.
type limiter interface {
	Limits(ctx context.Context, service string) (selector.Limits, error)
}

// limit is how long a request may take until the head of its answer, by what
// [Options.Ask] or the policy of the service says. The body may take any time.
type limit struct {
	context.Context
	end     time.Time
	by      string
	of      time.Duration
	timer   *time.Timer
	release context.CancelFunc
	passed  atomic.Bool
}

// newLimit is nil if there is no limit.
func newLimit(req *http.Request, from Picker, ask *selector.Request) *limit {
	l := &limit{of: ask.Timeout, by: "request"}
	if known, ok := from.(limiter); ok && l.of == 0 {
		of, err := known.Limits(req.Context(), ask.Service)
		if err != nil {
			return nil // the pick has the same error
		}
		l.of, l.by = of.Timeout, "policy"
	}
	if l.of <= 0 {
		return nil
	}
	ask.Timeout = -1
	l.end = time.Now().Add(l.of)
	l.Context, l.release = context.WithCancel(req.Context())
	l.timer = time.AfterFunc(l.of, func() {
		l.passed.Store(true)
		l.release()
	})
	return l
}

// Deadline is how long attempts have, or the caller if that is sooner.
func (l *limit) Deadline() (time.Time, bool) {
	if end, ok := l.Context.Deadline(); ok && end.Before(l.end) {
		return end, true
	}
	return l.end, true
}

// Err returns why the context ended.
func (l *limit) Err() error {
	if err := l.Context.Err(); err == nil || !l.passed.Load() {
		return err
	}
	return context.DeadlineExceeded
}

// limitError is the error of a request that its limit has ended.
type limitError struct {
	error
	by string
	of time.Duration
}

func (e *limitError) Error() string {
	return fmt.Sprintf("no answer in the time that the %s allows, %v: %v", e.by, e.of, e.error)
}

// Timeout is what [net.Error] looks for.
func (e *limitError) Timeout() bool { return true }

func (e *limitError) Unwrap() []error { return []error{context.DeadlineExceeded, e.error} }

// ended returns how the caller, or the limit of the request, has ended it, if they did.
func (c *call) ended() error {
	if err := interrupted(c.req); err != nil {
		return err
	}
	if c.limit != nil && c.limit.passed.Load() {
		return context.DeadlineExceeded
	}
	return nil
}

// stopLimit lets a response that has come take any time.
func (c *call) stopLimit() {
	if c.limit == nil {
		return
	}
	c.limit.timer.Stop()
	var a *answer
	if c.resp != nil {
		switch body := c.resp.Body.(type) {
		case *answer:
			a = body
		case *connection:
			a = body.answer
		}
	}
	if a == nil {
		c.limit.release()
		return
	}
	giveUp := a.giveUp
	a.giveUp = func(cause error) {
		giveUp(cause)
		c.limit.release()
	}
}
