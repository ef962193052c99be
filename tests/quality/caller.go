package main

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// caller is a process on a node that calls some services. All that it knows of
// the world is what its selector was given.
type caller struct {
	w        *world
	node     int
	number   int
	begin    time.Duration // when it starts
	services []string
	selector *selector.Selector // nil before

	last    []string // picked of each service
	changes int
}

var errUnreachable = errors.New("connection timed out")

// open starts the caller's selector. Its name tells it from other callers.
func (c *caller) open(ctx context.Context, name string) error {
	w := c.w
	s, err := selector.New(ctx, nil, selector.Options{
		Location: w.location(c.node, name),
		Strategy: w.strategy,
		Source:   w.source,
		Latency:  c.latency(),
		Probe:    selector.Probe{Bus: line{c.w.bus, c}},
		Logger:   w.log,
	})
	c.selector = s
	return err
}

// latency are the options under test.
func (c *caller) latency() latency.Options {
	return latency.Options{
		Dial: c.dial, Budget: float64(c.w.probes) / float64(len(c.services)),
		NoShare: !c.w.share, NoCoordinates: !c.w.coordinates,
	}
}

// line is a caller's way to the bus, and to the instances behind it.
type line struct {
	*bus
	caller *caller
}

// Request asks an instance, which takes one round trip.
func (l line) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	w := l.caller.w
	in := w.byPing[subject]
	if in == nil {
		return nil, errUnreachable
	}
	w.exchanges.Add(1)
	rtt, ok := w.now.Load().draw(l.caller.node, in.node, w.jitter)
	if !ok {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(rtt):
		return in.locator.Answer(data), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial takes one round trip, or for ever where there is no way.
func (c *caller) dial(ctx context.Context, _, address string) (net.Conn, error) {
	in := c.w.byAddress[address]
	c.w.dials.Add(1)
	in.dials.Add(1)
	rtt, ok := c.w.now.Load().draw(c.node, in.node, c.w.jitter)
	if !ok || c.w.gate.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	timer := time.NewTimer(rtt)
	defer timer.Stop()
	select {
	case <-timer.C:
		return connection{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// connection is one that nothing goes over.
type connection struct{ net.Conn }

func (connection) Close() error { return nil }

// live makes one call of each service, and starts the caller first if it is
// time to.
func (c *caller) live(ctx context.Context, now time.Duration, counts bool) error {
	if now < c.begin {
		return nil
	}
	if c.selector == nil {
		if err := c.open(ctx, "c"+strconv.Itoa(c.number)); err != nil {
			return err
		}
	}
	for i, service := range c.services {
		in, err := c.call(ctx, service)
		if err != nil {
			return err
		}
		if counts && c.last[i] != "" && c.last[i] != in.record.ID {
			c.changes++
		}
		c.last[i] = in.record.ID
	}
	return nil
}

// call picks an instance of a service, and the call takes one round trip.
func (c *caller) call(ctx context.Context, service string) (*instance, error) {
	p, err := c.selector.Pick(ctx, service)
	if err != nil {
		return nil, err
	}
	in := c.w.byID[p.ID]
	if rtt, ok := c.w.now.Load().draw(c.node, in.node, c.w.jitter); ok {
		p.DoneAfter(nil, rtt)
	} else {
		p.Done(errUnreachable)
	}
	return in, nil
}

func (c *caller) close() {
	if c.selector != nil {
		_ = c.selector.Close()
	}
}
