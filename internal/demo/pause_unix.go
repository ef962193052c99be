//go:build unix

package demo

import "syscall"

// pause stops the process: its connections are accepted and not answered.
func (p *process) pause() error { return p.signal(syscall.SIGSTOP, paused) }

func (p *process) resume() error { return p.signal(syscall.SIGCONT, running) }
