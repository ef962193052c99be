package router

import (
	"context"
	"sync"
	"time"
)

// patience is a context that ends with its parent, or with
// [context.DeadlineExceeded] when an answer has not begun in time. Once it has
// begun only the parent's end counts: an answer may take as long as it takes.
type patience struct {
	context.Context // the parent: its values

	limit time.Duration
	done  chan struct{}
	timer *time.Timer
	stop  func() bool // stop listening to the parent

	mu   sync.Mutex // guards what follows
	err  error
	calm bool // the answer has begun
}

// withPatience must be ended, as any context.
func withPatience(parent context.Context, limit time.Duration) *patience {
	p := &patience{Context: parent, limit: limit, done: make(chan struct{})}
	p.timer = time.AfterFunc(limit, func() { p.finish(context.DeadlineExceeded) })
	p.stop = context.AfterFunc(parent, func() { p.finish(parent.Err()) })
	return p
}

// begun says that the answer has begun.
func (p *patience) begun() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calm = true
	p.timer.Stop()
}

// extend begins the time anew, unless the answer has begun.
func (p *patience) extend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.calm && p.err == nil {
		p.timer.Reset(p.limit)
	}
}

// end frees what the context holds.
func (p *patience) end() {
	p.begun()
	p.stop()
	p.finish(context.Canceled)
}

func (p *patience) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.done)
	}
}

// Deadline is the parent's: ours ends when the answer begins.
func (p *patience) Deadline() (time.Time, bool) { return p.Context.Deadline() }

// Done is closed when the context ends.
func (p *patience) Done() <-chan struct{} { return p.done }

// Err says why the context ended.
func (p *patience) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}
