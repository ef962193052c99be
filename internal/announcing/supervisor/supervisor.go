package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

// Supervisor takes an announced instance to its end.
//
// Told to stop, it lets the instance leave, and only then passes the signal on
// to the command: draining → wait → deregister → signal → wait for the exit.
// In this order no call is lost. While the command still serves, its callers
// hear first that others are to be preferred and then that it is gone; when it
// stops listening nobody calls any more, and the calls under way are its own
// to finish. A second signal hurries all of this.
//
// A command that ends by itself is deregistered at once.
type Supervisor struct {
	Log     *slog.Logger
	Command *Command // nil: somebody else runs the instance
	// Leave ends the announcement, sooner when its context ends.
	Leave func(context.Context) error
	Again <-chan os.Signal // those who tell us to stop, once more
	Other <-chan os.Signal // what else is passed on
}

// Run returns when all has ended. ctx ends when it is told to stop.
func (s *Supervisor) Run(ctx context.Context) error {
	leaving, hurry := context.WithCancel(context.WithoutCancel(ctx))
	defer hurry()
	var exited <-chan struct{}
	if s.Command != nil {
		exited = s.Command.exited
	}
	var (
		stop    = ctx.Done()
		left    chan error // of leave, nil unless it runs
		first   os.Signal  // the one that told us to stop
		hurried bool       // by another one before it had left
	)
	begin := func() chan error {
		done := make(chan error, 1)
		go func() { done <- s.Leave(leaving) }() // waited for below
		return done
	}
	for {
		select {
		case <-stop:
			stop = nil
			first = daemon.Interrupt(ctx)
			left = begin()
		case err := <-left:
			left = nil
			s.notDeregistered(err)
			if s.Command == nil {
				return nil
			}
			if !hurried {
				s.pass(first)
			}
		case again := <-s.Again:
			hurried = hurried || stop != nil || left != nil
			hurry()
			s.pass(again)
		case other := <-s.Other:
			s.pass(other)
		case <-exited:
			hurry()
			if stop != nil {
				left = begin()
			}
			if left != nil {
				s.notDeregistered(<-left)
			}
			return s.exit(first, hurried)
		}
	}
}

func (s *Supervisor) pass(signal os.Signal) {
	if s.Command == nil {
		return
	}
	if err := s.Command.signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.Log.Warn("a signal did not reach the command", "signal", signal.String(), "error", err)
	}
}

// notDeregistered is no failure of the stop: the lease ends by itself.
func (s *Supervisor) notDeregistered(err error) {
	if err != nil {
		s.Log.Debug("left without being heard", "error", err)
	}
}

// exit is the command's exit code. To be killed by the very signal that was
// passed on after a clean leave is the end that was asked for, and no error.
func (s *Supervisor) exit(first os.Signal, hurried bool) error {
	code := s.Command.code()
	if first != nil && !hurried && s.Command.endedBy(first) {
		code = 0
	}
	if s.Command.err != nil {
		return &daemon.ExitError{Code: code, Err: s.Command.err}
	}
	s.Log.Info("the command has ended", "code", code)
	if code == 0 {
		return nil
	}
	return &daemon.ExitError{Code: code}
}
