package selector

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/route"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
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

// copied returns nil if copyOf panics: the call itself goes on.
func copied(copyOf func() func(context.Context, *Pick) error) (call func(context.Context, *Pick) error) {
	defer func() {
		if recover() != nil {
			call = nil
		}
	}()
	return copyOf()
}

// errPanicked is the end of a copy whose function panicked.
var errPanicked = errors.New("the copy of a call panicked")

// mirrorCall makes a copy of a call.
func (r *rules) mirrorCall(ctx context.Context, ask *Request, call func(context.Context, *Pick) error) {
	svc := r.svc
	p, ok := r.mirrorPick(ask)
	if !ok {
		svc.mirrorsDropped.Add(1)
		return
	}
	svc.mirrored.Add(1)
	err := fmt.Errorf("%w: %w", errPanicked, context.Canceled)
	defer func() {
		if what := recover(); what != nil {
			svc.sel.log.Error("a mirrored call panicked", "service", svc.name, "instance", p.ID, "panic", fmt.Sprint(what))
		}
		p.Done(err)
	}()
	err = call(ctx, &p)
	if err != nil && svc.run.Err() != nil {
		err = context.Canceled // the selector was closed
	}
}

// mirrorPick picks an instance for a copy. It is no load of the instance, but takes a place
// where calls in flight are bounded.
func (r *rules) mirrorPick(ask *Request) (Pick, bool) {
	v, err := r.vantage(&Request{Protocol: ask.Protocol, From: ask.From}, &target{expr: r.mirror.expr})
	if err != nil {
		return Pick{}, false
	}
	t := v.current()
	if t == nil {
		return Pick{}, false
	}
	now := r.svc.Now()
	if t.Bounded && !r.svc.places.whole.BeginWithin(r.bulkhead.most()) {
		return Pick{}, false
	}
	f, ok := t.Search(&table.Query{Key: ask.Key, Only: true}, table.Ticks(now))
	if !ok {
		if t.Bounded {
			r.svc.places.whole.TakeBack()
		}
		return Pick{}, false
	}
	p := Pick{f.Instance, f.Node, f.Pass, now, f.Index, pickLive | pickMirror, 0}
	if t.Bounded {
		f.Node.Copied()
		p.flags |= pickBusy | pickBounded
	}
	return p, true
}
