// Package refcount runs something for as long as it has users.
package refcount

import (
	"context"
	"sync"
)

// Run is something that runs while it is used. The zero value is ready.
type Run struct {
	mu    sync.Mutex // guards what follows
	users int
	stop  context.CancelFunc
	ended chan struct{}
}

// Join starts run, unless it runs.
func (r *Run) Join(run func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users++; r.users > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	r.stop, r.ended = cancel, ended
	go func() { // the last user waits for it
		defer close(ended)
		run(ctx)
	}()
}

// Leave ends what Join began, if nothing else uses it. The caller must call wait,
// which returns when it has ended.
func (r *Run) Leave() (wait func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users--; r.users > 0 {
		return func() {}
	}
	r.stop()
	ended := r.ended
	return func() { <-ended }
}
