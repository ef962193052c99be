package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// caller is one of them: a connection and what it knows.
type caller struct {
	troupe *troupe
	group  group
	url    string

	nc       *nats.Conn
	registry *kv.Registry
	selector *selector.Selector
	received atomic.Uint64
	ready    chan struct{}
	blocked  atomic.Pointer[chan struct{}] // what apply waits for

	mu      sync.Mutex // guards what follows
	known   map[string]events.Snapshot
	entries int
	stamp   int64 // of the newest change seen
	stampAt int64 // when that was
	removed int
	slow    bool // it was blocked: how late changes come to it says nothing
}

func newCaller(t *troupe, g group, url string) *caller {
	return &caller{troupe: t, group: g, url: url, ready: make(chan struct{}), known: map[string]events.Snapshot{}}
}

// start connects and returns when the caller knows all it wants to.
func (c *caller) start(ctx context.Context) error {
	var err error
	var more []nats.Option
	if c.group.Patient {
		more = append(more, patient)
	}
	if c.nc, err = dial(c.url, more...); err != nil {
		return err
	}
	context.AfterFunc(ctx, c.nc.Close)
	if c.group.Kind == plain {
		which := c.group.Service + ".>"
		if c.group.Service == "" {
			which = ">"
		}
		if _, err = c.nc.Subscribe(kv.DefaultBucket+".inst."+which, func(*nats.Msg) { c.received.Add(1) }); err != nil {
			return err
		}
		return c.nc.Flush()
	}
	if c.registry, err = open(ctx, c.nc, kv.Options{}); err != nil {
		return err
	}
	if c.group.Kind == selectors {
		return c.choose(ctx)
	}
	c.troupe.work.Go(func() {
		_ = c.registry.Watch(ctx, c.group.Service, func(s events.Snapshot) { c.apply(s, nil) }) // ends with ctx
	})
	select {
	case <-c.ready:
		return nil
	case <-time.After(5 * time.Minute):
		return fmt.Errorf("a view is not complete after five minutes: %d of %d instances", c.size(), c.group.Want)
	}
}

// choose makes a selector and is done when it picks.
func (c *caller) choose(ctx context.Context) error {
	var err error
	if c.selector, err = choose(ctx, c.nc, tap{c.registry, c}); err != nil {
		return err
	}
	c.troupe.work.Go(func() {
		<-ctx.Done()
		_ = c.selector.Close()
	})
	p, err := c.selector.Pick(ctx, c.group.Service)
	if err != nil {
		return err
	}
	p.Done(nil)
	<-c.ready
	return nil
}

// tap is a source that notes what the selector is told, after it was taken in.
type tap struct {
	*kv.Registry
	c *caller
}

func (t tap) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	return t.Registry.Watch(ctx, service, func(s events.Snapshot) { t.c.apply(s, apply) })
}

// apply takes in a snapshot, and gives it on.
func (c *caller) apply(s events.Snapshot, next func(events.Snapshot)) {
	if gate := c.blocked.Load(); gate != nil {
		<-*gate
	}
	if next != nil {
		next(s)
	}
	now := time.Now().UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.known[s.Service]
	c.compareLocked(before.Entries, s.Entries, now)
	c.entries += len(s.Entries) - len(before.Entries)
	c.known[s.Service] = s
	if c.entries >= c.group.Want && c.group.Want > 0 || c.group.Want == 0 && !s.Stale {
		select {
		case <-c.ready:
		default:
			close(c.ready)
		}
	}
}

// compareLocked notes what is new in a snapshot, and what is no longer there.
// Both are in order, and what has not changed is the same pointer.
func (c *caller) compareLocked(before, after []events.Entry, now int64) {
	k := 0
	for i := range after {
		e := after[i].Instance
		for k < len(before) && before[k].Instance != e && before[k].Compare(e) < 0 {
			c.removed++
			k++
		}
		if k < len(before) && (before[k].Instance == e || before[k].Compare(e) == 0) {
			k++
			if before[k-1].Instance == e {
				continue
			}
		}
		if at := stamped(e.Version); at != 0 {
			if !c.slow {
				c.troupe.delays.add(time.Duration(now - at))
			}
			if at > c.stamp {
				c.stamp, c.stampAt = at, now
			}
		}
	}
	c.removed += len(before) - k
}

// block holds up the consumer of this caller for d, and answers how long after
// that it has seen what changed since, in ms. It needs changes that go on meanwhile.
func (c *caller) block(d time.Duration) (float64, error) {
	c.mu.Lock()
	c.slow = true
	c.mu.Unlock()
	gate := make(chan struct{})
	c.blocked.Store(&gate)
	time.Sleep(d)
	c.blocked.Store(nil)
	released := time.Now().UnixNano()
	close(gate)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if at := c.sawAt(released); at != 0 {
			return ms(time.Duration(at - released)), nil
		}
	}
	return 0, errors.New("a minute after it was let go a caller has seen no change")
}

// sawAt is when it saw the newest change, if that was made at stamp or later,
// else 0.
func (c *caller) sawAt(stamp int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stamp < stamp {
		return 0
	}
	return c.stampAt
}

func (c *caller) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries
}

func (c *caller) report(s *state) {
	s.Received += c.received.Load()
	if c.registry == nil {
		return
	}
	counts := c.registry.Counts()
	s.Snapshots += counts.Snapshots
	s.Gaps += counts.Gaps
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Removed += c.removed
	stale := false
	for _, known := range c.known {
		stale = stale || known.Stale
		for i := range known.Entries {
			if known.Entries[i].Suspect {
				s.Suspects++
			}
		}
	}
	if stale {
		s.Stale++
	}
}

// compare compares what the caller knows with the bucket; of a selector also
// what it would pick from.
func (c *caller) compare(ctx context.Context, all map[string]listed) (entries int, wrong []string, err error) {
	c.mu.Lock()
	wrong = differences(c.known, all, c.group.Service)
	entries = c.entries
	c.mu.Unlock()
	if c.selector == nil {
		return entries, wrong, nil
	}
	table, err := c.selector.Explain(ctx, selector.Request{Service: c.group.Service})
	if err != nil {
		return entries, wrong, err
	}
	for _, in := range table.Instances {
		if l, ok := all[in.Key().Inst()]; !ok || l.Version != in.Version {
			wrong = append(wrong, in.Key().Inst()+" is another in the table")
		}
	}
	if n := sizeOf(all, c.group.Service); n != len(table.Instances) {
		wrong = append(wrong, fmt.Sprintf("the table has %d instances, the bucket %d", len(table.Instances), n))
	}
	return entries, wrong, nil
}
