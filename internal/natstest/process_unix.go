//go:build unix

package natstest

import (
	"os/exec"
	"syscall"
	"testing"
)

// apart gives the process a group of its own. When the test that started it
// dies, the group is orphaned, and the system wakes whoever in it is stopped:
// so that also a stopped server sees its standard input end.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// Stop freezes the server (SIGSTOP): its connections stay open, and nobody
// answers on them.
func (p *Process) Stop(tb testing.TB) { p.signal(tb, syscall.SIGSTOP) }

// Continue lets a frozen server go on (SIGCONT).
func (p *Process) Continue(tb testing.TB) { p.signal(tb, syscall.SIGCONT) }

// Terminate ends the server as a service manager does (SIGTERM), and waits for it.
func (p *Process) Terminate(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGTERM)
	p.await(tb)
}

// LameDuck asks the server to hand over what it leads, to send its clients away
// and to end (SIGUSR2), and waits for it. How long it takes is in its
// configuration; half a minute is the least.
func (p *Process) LameDuck(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGUSR2)
	p.await(tb)
}

func (p *Process) signal(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		tb.Fatalf("natstest: %v to server %s: %v", s, p.Name, err)
	}
}
