package router

import (
	"context"
	"sync"
)

// gate bounds how many calls run at once, and waits for them when the router
// stops.
type gate struct {
	limit int // 0: none

	mu     sync.Mutex // guards what follows
	inside int
	closed bool
	empty  chan struct{} // closed when the gate is closed and no call runs
}

func newGate(limit int) *gate { return &gate{limit: limit, empty: make(chan struct{})} }

// enter must be followed by leave, unless it returns an error.
func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return errStopping
	case g.limit > 0 && g.inside >= g.limit:
		return errBusy
	}
	g.inside++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.closeEmptyLocked()
}

// close makes enter fail from now on.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.closed = true
		g.closeEmptyLocked()
	}
}

func (g *gate) closeEmptyLocked() {
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}

// wait waits until no call runs behind a closed gate, or ctx ends.
func (g *gate) wait(ctx context.Context) error {
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}
