//go:build unix

package faults

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	pickEvery    = 10 * time.Millisecond
	explainEvery = 50 // picks
)

// Caller is a connection with a watch and a selector that picks all the time.
type Caller struct {
	Name string
	Conn *nats.Conn
	// Registry is its own, for what it has counted.
	Registry *kv.Registry

	w        *World
	sight    *Sight
	selector *selector.Selector // nil: it only watches
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// At is the server that the caller is connected to now, nil for none.
func (c *Caller) At() *natstest.Process { return c.w.at(c.Conn) }

func (w *World) at(nc *nats.Conn) *natstest.Process {
	name := nc.ConnectedServerName()
	for _, n := range w.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Stale reports whether the caller's view is marked stale.
func (c *Caller) Stale() bool { return c.sight.Stale() }

// Callers starts n callers, evenly over the servers, and waits until they see
// the living instances. The first call also starts what changes all the time, so that
// there is something to see.
func (w *World) Callers(n int) []*Caller {
	w.t.Helper()
	return w.call(n, func(i int) *Caller { return w.CallerAt(w.from(i)) })
}

// Watchers starts callers that only watch, and cost little.
func (w *World) Watchers(n int) []*Caller {
	w.t.Helper()
	return w.call(n, func(i int) *Caller { return w.WatcherAt(w.from(i)) })
}

func (w *World) call(n int, start func(int) *Caller) []*Caller {
	w.t.Helper()
	if w.beacon == nil {
		w.startBeacon()
	}
	added := make([]*Caller, n)
	for i := range added {
		added[i] = start(i)
	}
	w.Whole(testkit.Patience)
	return added
}

// CallerAt starts a caller that knows only these servers, the first first, and
// does not wait for anything.
func (w *World) CallerAt(urls string, more ...nats.Option) *Caller {
	w.t.Helper()
	c := w.WatcherAt(urls, more...)
	var err error
	c.selector, err = selector.New(w.t.Context(), c.Conn, selector.Options{
		Location: topology.Location{Region: "r", Zone: fmt.Sprintf("z%d", w.named%3)},
		Logger:   w.line.logger(c.Name + "'s selector"),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	watch := c.stop
	c.stop = func() { cancel(); watch() }
	c.running.Go(func() { c.pick(ctx) })
	return c
}

// CallerBehind starts a caller that reaches only this server, through a link
// that can be broken, and waits until it sees the living instances.
func (w *World) CallerBehind(n *natstest.Process) (*Caller, *natstest.Proxy) {
	w.t.Helper()
	link := natstest.NewProxy(w.whole, n.Address())
	c := w.CallerAt(link.URL())
	w.Whole(testkit.Patience)
	return c, link
}

// WatcherAt starts one that only watches, and does not wait for anything.
func (w *World) WatcherAt(urls string, more ...nats.Option) *Caller {
	w.t.Helper()
	w.named++
	c := &Caller{Name: fmt.Sprintf("c%04d", w.named), w: w}
	c.Conn = w.connect(c.Name, urls, more...)
	c.Registry = w.open(c.Conn, w.line.logger(c.Name))
	c.sight = w.Sight(c.Name)
	var ctx context.Context
	ctx, c.stop = context.WithCancel(context.Background())
	c.running.Go(func() { _ = c.Registry.Watch(ctx, service, c.see) }) // until ctx ends
	w.callers = append(w.callers, c)
	return c
}

// see takes in a view.
func (c *Caller) see(s events.Snapshot) {
	var number uint64
	for i := range s.Entries {
		if text, ok := s.Entries[i].Metadata[beaconKey]; ok {
			number, _ = strconv.ParseUint(text, 10, 64)
		}
	}
	was := c.sight.Stale()
	c.sight.Saw(s, number)
	if s.Stale != was {
		c.w.Note("%s: stale %t", c.Name, s.Stale)
	}
}

// pick picks, and calls the picked instance: a dead one refuses.
func (c *Caller) pick(ctx context.Context) {
	every := time.NewTicker(pickEvery)
	defer every.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		p, err := c.selector.Pick(ctx, service)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, selector.ErrNoSnapshot):
			continue // it has only begun
		case err != nil:
			c.sight.Picked("", err)
			continue
		}
		c.sight.Picked(p.ID, nil)
		p.Done(c.w.answer(p.ID))
		if n%explainEvery == 0 {
			c.explain(ctx)
		}
	}
}

// explain tells which instances the selector knows.
func (c *Caller) explain(ctx context.Context) {
	e, err := c.selector.Explain(ctx, selector.Request{Service: service})
	if err != nil {
		return // the next pick says it too
	}
	ids := make([]string, len(e.Instances))
	for i := range e.Instances {
		ids[i] = e.Instances[i].ID
	}
	c.sight.Explained(ids)
}

// answer is what comes of a call.
func (w *World) answer(id string) error {
	if !w.Dead(id) {
		return nil
	}
	return selector.NotSent(syscall.ECONNREFUSED)
}

// Close ends the caller. Nothing of it may be left on its connection.
func (c *Caller) Close() {
	c.w.t.Helper()
	c.stop()
	c.running.Wait() // a pick that is under way must not find the selector closed
	if c.selector != nil {
		_ = c.selector.Close() // always nil
	}
	c.sight.Gone()
	if n := c.Conn.NumSubscriptions(); n > 1 { // one is nats.go's, for answers
		c.w.t.Errorf("%s has closed and left %d subscriptions", c.Name, n)
	}
	c.Conn.Close()
	for i, other := range c.w.callers {
		if other == c {
			c.w.callers = append(c.w.callers[:i:i], c.w.callers[i+1:]...)
			break
		}
	}
}

// Seen waits until every caller sees the living instances, in the midst of a
// story.
func (w *World) Seen() {
	w.t.Helper()
	testkit.Retry(w.t, "every caller sees the living instances", func(context.Context) error {
		if what := w.unseen(); what != "" {
			return errors.New(what)
		}
		return nil
	})
}

// unseen says what a caller does not see as it is, "" if nothing.
func (w *World) unseen() string {
	for _, c := range w.callers {
		if what := c.sight.whole(); what != "" {
			return what
		}
	}
	return ""
}

// Whole reports whether the caller sees exactly the living instances.
func (c *Caller) Whole() bool { return c.sight.whole() == "" }

// AllSee reports whether every caller sees exactly the living instances.
func (w *World) AllSee() bool { return w.unseen() == "" }

// Until waits until something is true, and says how long that took.
func (w *World) Until(what string, ok func() bool) time.Duration {
	w.t.Helper()
	took := testkit.Eventually(w.t, what, ok).Round(time.Millisecond)
	w.Note("%s, after %v", what, took)
	return took
}
