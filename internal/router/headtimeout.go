package router

import (
	"context"
	"sync"
	"time"
)

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
