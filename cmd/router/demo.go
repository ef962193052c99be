package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/demo"
)

type demoCommand struct {
	Duration time.Duration `default:"40s" placeholder:"DURATION" help:"Duration of the calls; 0s until Ctrl-C (${default})."`
	Plain    bool          `help:"Print lines instead of a screen, also on a terminal."`
	Listen   string        `name:"nats-listen" default:"127.0.0.1:0" placeholder:"HOST:PORT" help:"Address of the NATS server of the demo, for other commands; port 0 takes a free port (${default})."`
}

// Help is shown by -h.
func (c *demoCommand) Help() string {
	return `Starts a NATS server and six instances of a service, each a process that serves HTTP, in three zones of two near regions and in a far region. A caller in one of the zones calls 40 times a second, while instances are killed, paused, drained and started again. The network between regions is simulated, with the round trips that CloudPing.co measured on AWS.

At the end it prints a summary. The exit code is 0 only if no call failed after its retries.`
}

// Run runs the demo.
func (c *demoCommand) Run(ctx context.Context, p *daemon.Process) error {
	if c.Duration != 0 && c.Duration < demo.MinDuration {
		return daemon.Usagef("--duration %v: want at least %v, or 0s for ever", c.Duration, demo.MinDuration)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("demo: cannot start instances: %w", err)
	}
	result, err := demo.Run(ctx, demo.Options{
		Duration: c.Duration,
		Command:  []string{self, "demo-instance"},
		NATS:     c.Listen,
		Out:      p.Stdout,
		Live:     !c.Plain && daemon.IsTerminal(p.Stdout),
	})
	if err == nil && result.Failed > 0 {
		err = fmt.Errorf("demo: %d of %d calls failed after retries", result.Failed, result.Calls)
	}
	return err
}

// demoInstanceCommand is one instance of the demo. The demo starts it.
type demoInstanceCommand struct {
	Job string `arg:"" help:"The job of the instance, as JSON."`
}

// Run serves until ctx ends.
func (c *demoInstanceCommand) Run(ctx context.Context, p *daemon.Process) error {
	return demo.Instance(ctx, c.Job, p.Stdin)
}
