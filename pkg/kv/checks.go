package kv

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// checker runs the check of an announcement again and again, and keeps its result.
type checker struct {
	check             func(context.Context) error
	interval, timeout time.Duration
	rise, fall        int
	results           chan error
	running           sync.WaitGroup // also of beats

	// The announcer's.
	passed bool          // the check has passed once
	good   int           // times in a row it has passed
	failed int           // times in a row it has failed
	health events.Status // up or not_ready
}

func newChecker(o AnnounceOptions) checker {
	return checker{
		check: o.Check, interval: o.CheckInterval, timeout: o.CheckTimeout, rise: o.CheckRise, fall: o.CheckFall,
		results: make(chan error), passed: o.Check == nil, health: events.Up,
	}
}

// note takes in a result and reports whether it makes a difference.
func (c *checker) note(err error) bool {
	if err == nil {
		c.good, c.failed = c.good+1, 0
		ready := c.passed && c.health == events.Up
		if ready || c.good < c.rise {
			return false
		}
		c.passed, c.health = true, events.Up
		return true
	}
	c.good, c.failed = 0, c.failed+1
	if !c.passed || c.failed < c.fall || c.health == events.NotReady {
		return false
	}
	c.health = events.NotReady
	return true
}

// startChecks sends results until ctx ends.
func (c *checker) startChecks(ctx context.Context) {
	if c.check != nil {
		c.running.Go(func() { c.run(ctx) })
	}
}

func (c *checker) run(ctx context.Context) {
	// Until the first pass the instance is not listed: check more often.
	interval := min(c.interval, firstChecks)
	for ctx.Err() == nil {
		if c.once(ctx) {
			interval = c.interval
		}
		select {
		case <-time.After(wire.Jitter(interval)):
		case <-ctx.Done():
		}
	}
}

// once runs the check and reports whether it passed. A check that hangs fails again
// after each interval, whether it heeds its context or not.
func (c *checker) once(ctx context.Context) bool {
	bounded, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	answer := make(chan error, 1)
	c.running.Go(func() { answer <- c.check(bounded) })
	late := time.NewTimer(c.timeout)
	defer late.Stop()
	for {
		var err error
		hangs := false
		select {
		case err = <-answer:
		case <-late.C:
			late.Reset(c.interval)
			hangs, err = true, fmt.Errorf("no answer within %v", c.timeout)
		case <-ctx.Done():
			return false
		}
		select {
		case c.results <- err:
		case <-ctx.Done():
			return false
		}
		if !hangs {
			return err == nil
		}
	}
}

// await waits until no check and no Load runs any more, at most awaitChecks: they
// may ignore their context.
func (c *checker) await() {
	ended := make(chan struct{})
	go func() {
		c.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(awaitChecks):
	}
}
