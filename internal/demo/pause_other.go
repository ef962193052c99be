//go:build !unix

package demo

// Without signals that freeze a process, nothing is paused.
func (p *process) pause() error  { return nil }
func (p *process) resume() error { return nil }
