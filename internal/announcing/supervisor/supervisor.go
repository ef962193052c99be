// Package supervisor runs an announced instance until its end.
package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

// Supervisor ends an announced instance, and the command that it is, in the order in
// which no call is lost.
//
// On a signal to stop it first lets the instance leave, and then passes the signal
// to the command: draining → wait → deregister → signal → wait for the exit. The
// command serves until its callers have heard that the instance is draining, and
// then that it is gone. When it stops listening no new calls arrive, and it
// finishes those under way. A second signal skips the waiting.
//
// When the command ends by itself the instance is deregistered at once.
type Supervisor struct {
	Log     *slog.Logger
	Command *Command
	// Leave ends the announcement. The end of its context ends the draining.
	Leave func(context.Context) error
	Again <-chan os.Signal // signals to stop, after the first
	Other <-chan os.Signal // other signals, for the command
}

// Run returns when the announcement and the command have ended. The end of ctx is
// the signal to stop.
func (s *Supervisor) Run(ctx context.Context) error {
	leaving, hurry := context.WithCancel(context.WithoutCancel(ctx))
	defer hurry()
	var (
		stop    = ctx.Done()
		left    chan error // the result of Leave, nil unless it runs
		first   os.Signal  // to stop
		hurried bool       // a second one came before Leave had returned
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
			if !hurried {
				s.pass(first)
			}
		case again := <-s.Again:
			hurried = hurried || stop != nil || left != nil
			hurry()
			s.pass(again)
		case other := <-s.Other:
			s.pass(other)
		case <-s.Command.exited:
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
	if err := s.Command.signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.Log.Warn("a signal did not reach the command", "signal", signal.String(), "error", err)
	}
}

// notDeregistered logs an error of Leave. It is not returned: the lease ends by
// itself.
func (s *Supervisor) notDeregistered(err error) {
	if err != nil {
		s.Log.Debug("the instance was not deregistered", "error", err)
	}
}

// exit is the exit code of the command as an error, nil for 0. A command that was
// killed by the signal that was passed to it, after a complete leave, has ended as
// it should: the code is 0.
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
