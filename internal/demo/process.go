package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is the process of an instance. The script starts and stops it.
type process struct {
	member
	command []string
	nats    string

	mu    sync.Mutex // guards what follows
	cmd   *exec.Cmd
	alive io.Closer // its standard input, whose end ends it
	ended chan struct{}
	state string
}

// States of a process: what the script did to it last.
const (
	running  = "running"
	killed   = "killed"
	paused   = "paused"
	stopping = "draining"
	stopped  = "stopped"
)

func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	text, err := json.Marshal(job{p.member, p.nats})
	if err != nil {
		return fmt.Errorf("demo: start %s: %w", p.ID, err)
	}
	args := append(p.command[1:len(p.command):len(p.command)], string(text))
	cmd := exec.Command(p.command[0], args...)
	cmd.Stderr = os.Stderr
	if p.alive, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("demo: start %s: %w", p.ID, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("demo: start %s: %w", p.ID, err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.state = cmd, ended, running
	go func() { // ends with the process
		_ = cmd.Wait() // the script has ended it
		p.mu.Lock()
		p.cmd = nil
		if p.state != killed {
			p.state = stopped
		}
		p.mu.Unlock()
		close(ended)
	}()
	return nil
}

// signal sends a signal and sets the state.
func (p *process) signal(s os.Signal, state string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	p.state = state
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("demo: signal %v to %s: %w", s, p.ID, err)
	}
	return nil
}

func (p *process) kill() error  { return p.signal(os.Kill, killed) }
func (p *process) drain() error { return p.signal(syscall.SIGTERM, stopping) }

func (p *process) current() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// end stops the process, and kills it when it does not end within 3 s.
func (p *process) end(ctx context.Context) {
	p.mu.Lock()
	ended, cmd := p.ended, p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = p.resume() // it may have ended
	_ = p.drain()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-time.After(3 * time.Second):
	}
	_ = p.kill()
	<-ended
}
