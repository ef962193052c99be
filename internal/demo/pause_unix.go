//go:build unix

package demo

import "syscall"

// pause freezes the process: it accepts connections and answers nothing.
func (p *process) pause() error { return p.signal(syscall.SIGSTOP, paused) }

func (p *process) resume() error { return p.signal(syscall.SIGCONT, running) }
