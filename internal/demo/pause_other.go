//go:build !unix

package demo

// These systems have no signals that stop a process: it is not paused.
func (p *process) pause() error  { return nil }
func (p *process) resume() error { return nil }
