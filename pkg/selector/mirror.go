package selector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/route"
)

// mirror is the part of a policy that has copies of calls sent to a subset.
type mirror struct {
	expr  *expression
	share float64
	turn  route.Share
}

// mostMirrors is how many copies of a selector are on their way at a time. More are dropped.
const mostMirrors = 64

// mirrors are the copies that are on their way.
type mirrors struct{ running atomic.Int64 }

// enter takes a place, if there is one.
func (m *mirrors) enter() bool {
	if m.running.Add(1) > mostMirrors {
		m.running.Add(-1)
		return false
	}
	return true
}

func (m *mirrors) leave() { m.running.Add(-1) }

// copied returns nil if copyOf panics, which is logged: the call itself goes on.
func (s *core) copied(service string, copyOf func() func(context.Context, *Pick) error) (call func(context.Context, *Pick) error) {
	defer func() {
		if what := recover(); what != nil {
			s.log.Error("a call cannot be mirrored: what makes the copy panicked", "service", service, "panic", fmt.Sprint(what))
			call = nil
		}
	}()
	return copyOf()
}

// errPanicked is the end of a copy whose function panicked.
var errPanicked = errors.New("the copy of a call panicked")
