package kv

import (
	"context"
	"sync"
)

// shared runs something while it is used.
type shared struct {
	mu    sync.Mutex // guards what follows
	users int
	stop  context.CancelFunc
	ended chan struct{}
}

// join starts run, unless it runs.
func (s *shared) join(run func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users++; s.users > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s.stop, s.ended = cancel, ended
	go func() { // the last user waits for it
		defer close(ended)
		run(ctx)
	}()
}

// leave ends what join began, if nothing else uses it. The caller must call wait,
// which returns when it has ended.
func (s *shared) leave() (wait func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return func() {}
	}
	s.stop()
	ended := s.ended
	return func() { <-ended }
}
