//go:build unix

package natstest

import "syscall"

// Stop freezes the server (SIGSTOP): its connections stay open and get no
// answers. It takes a moment.
func (p *Process) Stop() { p.run.Signal(syscall.SIGSTOP) }

// Continue lets a frozen server go on (SIGCONT).
func (p *Process) Continue() { p.run.Signal(syscall.SIGCONT) }

// Terminate ends the server as a service manager does (SIGTERM), and waits for it.
func (p *Process) Terminate() { p.run.Stop() }
