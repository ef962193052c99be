//go:build unix

package natstest

import (
	"syscall"
	"testing"
)

// Stop freezes the server (SIGSTOP): its connections stay open, and nobody
// answers on them. It takes a moment.
func (p *Process) Stop(tb testing.TB) { p.run.Signal(syscall.SIGSTOP) }

// Continue lets a frozen server go on (SIGCONT).
func (p *Process) Continue(tb testing.TB) { p.run.Signal(syscall.SIGCONT) }

// Terminate ends the server as a service manager does (SIGTERM), and waits for it.
func (p *Process) Terminate(tb testing.TB) {
	tb.Helper()
	p.run.Stop()
}

// LameDuck asks the server to hand over what it leads, to send its clients away
// and to end (SIGUSR2), and waits for it. How long it takes is in its
// configuration; half a minute is the least.
func (p *Process) LameDuck(tb testing.TB) {
	tb.Helper()
	p.run.Signal(syscall.SIGUSR2)
	p.run.Exit()
}
