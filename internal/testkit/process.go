package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Command is a program to start as a process.
type Command struct {
	// Path of the program. Default: the binary of the test, whose TestMain then
	// does what Env or Args say.
	Path string
	Args []string
	// Env is added to PATH, HOME (a new directory) and what the Go runtime reads.
	// Nothing else of the environment of the test is passed on.
	Env []string
	// Files are what the process inherits, as its descriptors from 3 on.
	Files []*os.File
	// Attr are attributes of the operating system. Optional.
	Attr *syscall.SysProcAttr
	// Stdout and Stderr get the output. They may be the same. Default: new ones.
	Stdout, Stderr *Output
}

const (
	// drain is how long the output of an ended process is read when its children
	// hold it open.
	drain = time.Second
	// shown is how many lines of its output a failed test shows.
	shown = 100
)

// inherited are the variables of the test's environment that a process gets.
var inherited = []string{"PATH", "TMPDIR", "GORACE", "GOCOVERDIR", "GODEBUG"}

// Process is a running program. It is killed when the test ends, and on Linux
// also when the binary of the test does. Its standard input stays open until the
// test ends: a program that reads it notices the end on every system, and so do
// its children.
type Process struct {
	Stdout, Stderr *Output

	tb    testing.TB
	cmd   *exec.Cmd
	name  string
	ended chan struct{}
}

// Start starts a program and does not wait until it is ready, see
// [Output.Await]. A failed test shows its output.
func Start(tb testing.TB, c Command) *Process {
	tb.Helper()
	if c.Path == "" {
		self, err := os.Executable()
		if err != nil {
			tb.Fatal(err)
		}
		c.Path = self
	}
	if c.Stdout == nil {
		c.Stdout = new(Output)
	}
	if c.Stderr == nil {
		c.Stderr = new(Output)
	}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = []string{"HOME=" + tb.TempDir()}
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.SysProcAttr = dieWithParent(c.Attr)
	cmd.ExtraFiles = c.Files
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.WaitDelay = drain
	read, write, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stdin = read
	err = cmd.Start()
	read.Close()
	if err != nil {
		write.Close()
		tb.Fatalf("start %s: %v", c.Path, err)
	}
	p := &Process{
		Stdout: c.Stdout, Stderr: c.Stderr, tb: tb, cmd: cmd, ended: make(chan struct{}),
		name: strings.Join(append([]string{filepath.Base(c.Path)}, c.Args...), " "),
	}
	go func() { // ends with the process, which ends with the test
		_ = cmd.Wait() // ProcessState has the result
		close(p.ended)
	}()
	tb.Cleanup(func() {
		p.Kill()
		write.Close()
		if tb.Failed() {
			tb.Logf("%s\nstdout:\n%s\nstderr:\n%s", p.name, p.Stdout.take(shown), p.Stderr.take(shown))
		}
	})
	return p
}

// PID is the number of the process, also after its end.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running reports whether the process exists; a stopped one does.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Signal sends a signal. It fails the test if the process has ended.
func (p *Process) Signal(s os.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatalf("%v to %s: %v", s, p.name, err)
	}
}

// Exit waits until the process has ended and returns its exit code, -1 when a
// signal ended it.
func (p *Process) Exit() int {
	p.tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(Patience):
		p.tb.Fatalf("not within %v: %s ends", Patience, p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Stop asks the process to end (SIGTERM) and returns its exit code.
func (p *Process) Stop() int {
	p.tb.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Exit()
}

// Kill ends the process at once, also a stopped one, and waits until it has
// ended. It may be called twice.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.ended
}
