package router

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// limit is how long a call may take, and what says so.
type limit struct {
	name string // "--timeout", the policy of the service, or the header of the caller
	time.Duration
}

// limitOf is the shorter one of the router's limit, or that of the policy in its place, and
// what the caller says.
func limitOf(ours, policy time.Duration, told string) (limit, error) {
	l := limit{"--timeout", ours}
	if policy > 0 {
		l = limit{policyLimit, policy}
	}
	if told == "" {
		return l, nil
	}
	d, err := time.ParseDuration(told)
	if err != nil || d <= 0 {
		return l, &badRequest{headerTimeout, told, "want how long the answer may take, such as 1500ms or 2s"}
	}
	if d <= l.Duration {
		l = limit{headerTimeout, d}
	}
	return l, nil
}

// attempts is how long one attempt may take, and what says so.
func attempts(ours time.Duration, of selector.Limits) limit {
	if of.Attempt > 0 {
		return limit{policyAttemptLimit, of.Attempt}
	}
	return limit{attemptLimit, ours}
}

// byCaller reports whether it is what the caller said.
func (l limit) byCaller() bool { return l.name == headerTimeout }

// timeoutError is the error of a call that a limit has ended. It is errDeadline.
type timeoutError struct {
	limit
	err error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("%v (%s %v): %v", errDeadline, e.name, e.Duration, e.err)
}

// Unwrap returns what the call waited for.
func (e *timeoutError) Unwrap() []error { return []error{errDeadline, e.err} }

// The names of limits, beside --timeout and the header of the caller: of one attempt, and
// those of policies.
const (
	attemptLimit       = "--attempt-timeout"
	policyLimit        = "policy timeout"
	policyAttemptLimit = "policy attempt_timeout"
)

// left is how an instance is told what is left of the time for its answer.
func left(d time.Duration) string {
	return max(d, time.Millisecond).Truncate(time.Millisecond).String()
}

// teller tells instances what is left for their answer. The first attempt has it in its
// headers already.
type teller struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t teller) RoundTrip(req *http.Request) (*http.Response, error) {
	a, ok := proximahttp.AttemptFrom(req.Context())
	remains, bounded := req.Context().Value(remainsKey{}).(interface{ remains() time.Duration })
	if ok && bounded && a.Number > 1 {
		req = req.WithContext(req.Context())
		req.Header = req.Header.Clone() // other attempts may be reading it
		req.Header.Set(headerTimeout, left(remains.remains()))
	}
	return t.RoundTripper.RoundTrip(req)
}

// CloseIdleConnections is called by the method of that name of [proximahttp.Transport].
func (t teller) CloseIdleConnections() {
	if c, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// remainsKey is the key of a context for what knows how much time remains.
type remainsKey struct{}

// deadline is a fixed end.
type deadline time.Time

func (d deadline) remains() time.Duration { return time.Until(time.Time(d)) }

// endings logs the calls that limits ended, one a second at most.
type endings struct {
	log *slog.Logger

	mu   sync.Mutex
	last time.Time
	more int // since then
}

func (e *endings) add(service string, err *timeoutError) {
	e.mu.Lock()
	if time.Since(e.last) < time.Second {
		e.more++
		e.mu.Unlock()
		return
	}
	more := e.more
	e.last, e.more = time.Now(), 0
	e.mu.Unlock()
	e.log.Warn("a call was ended because it took too long", "service", service, "limit", err.name, "value", err.Duration, "others_before", more, "error", err.err)
}

// headContext is a context that ends with its parent, or with
// [context.DeadlineExceeded] if an answer has not begun in time. Once it has
// begun, only the end of the parent counts: an answer may take any time.
type headContext struct {
	context.Context // the parent: its values

	limit limit
	done  chan struct{}
	timer *time.Timer
	stop  func() bool // stops listening to the parent

	mu    sync.Mutex // guards what follows
	err   error
	begun bool
	ends  time.Time
}

// withHeadTimeout must be followed by end.
func withHeadTimeout(parent context.Context, l limit) *headContext {
	c := &headContext{Context: parent, limit: l, ends: time.Now().Add(l.Duration), done: make(chan struct{})}
	c.timer = time.AfterFunc(l.Duration, func() { c.finish(context.DeadlineExceeded) })
	c.stop = context.AfterFunc(parent, func() { c.finish(parent.Err()) })
	return c
}

// begin is called when the answer begins.
func (c *headContext) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	c.timer.Stop()
}

// extend restarts the time, unless the answer has begun, or the caller said how long it
// waits.
func (c *headContext) extend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.begun && c.err == nil && !c.limit.byCaller() {
		c.timer.Reset(c.limit.Duration)
		c.ends = time.Now().Add(c.limit.Duration)
	}
}

// remains is how much time is left for the answer to begin.
func (c *headContext) remains() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.ends)
}

// end releases the context.
func (c *headContext) end() {
	c.begin()
	c.stop()
	c.finish(context.Canceled)
}

func (c *headContext) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

// Deadline is the parent's: that of the head does not hold for the answer.
func (c *headContext) Deadline() (time.Time, bool) { return c.Context.Deadline() }

// Done is closed when the context ends.
func (c *headContext) Done() <-chan struct{} { return c.done }

// Err returns why the context ended.
func (c *headContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
