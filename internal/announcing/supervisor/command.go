package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

// The exit codes that shells use for a command that cannot be run, and the
// one that the code of a signal is added to.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignalled     = 128
)

// PassedOn are the signals that go to the command, besides those that end the
// program.
func PassedOn() []os.Signal {
	return []os.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
}

// Command is the process that is wrapped. It has a process group of its own,
// so that Ctrl-C in a terminal reaches only us: the command hears of it when
// its callers have gone. Being in the background of that terminal it cannot
// read from it; its standard input is then empty.
type Command struct {
	process *os.Process
	exited  chan struct{} // closed when it has ended, and the rest is set
	status  syscall.WaitStatus
	err     error
}

// Start starts a command with the output of p.
func Start(argv []string, p *daemon.Process) (*Command, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if p.Stdin != nil && !isTerminal(p.Stdin) {
		cmd.Stdin = p.Stdin
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		code := exitNotExecutable
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			code = exitNotFound
		}
		return nil, &daemon.ExitError{Code: code, Err: err}
	}
	c := &Command{process: cmd.Process, exited: make(chan struct{})}
	wait := c.wait
	if os.Getpid() == 1 {
		wait = c.waitAsInit
	}
	go func() { // ends with the command
		defer close(c.exited)
		wait(cmd)
	}()
	return c, nil
}

// isTerminal is true for other devices too, which hold nothing to read.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeCharDevice != 0
}

// PID is the id of its process.
func (c *Command) PID() int { return c.process.Pid }

func (c *Command) wait(cmd *exec.Cmd) {
	err := cmd.Wait()
	if _, isStatus := errors.AsType[*exec.ExitError](err); err != nil && !isStatus {
		c.err = err
	}
	if cmd.ProcessState != nil {
		c.status, _ = cmd.ProcessState.Sys().(syscall.WaitStatus)
	}
}

// waitAsInit also buries the orphans that a container's first process
// inherits, until the command has ended.
func (c *Command) waitAsInit(cmd *exec.Cmd) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			c.err = os.NewSyscallError("wait4", err)
			return
		case pid == cmd.Process.Pid:
			c.status = status
			return
		}
	}
}

// signal passes a signal on. What a terminal sends goes to the whole group, as
// a terminal sends it; the others go to the command alone, as kill does.
func (c *Command) signal(s os.Signal) error {
	select {
	case <-c.exited:
		return os.ErrProcessDone
	default:
	}
	if number, ok := s.(syscall.Signal); ok && (number == syscall.SIGINT || number == syscall.SIGQUIT) {
		return syscall.Kill(-c.process.Pid, number)
	}
	return c.process.Signal(s)
}

// code is the exit code, as a shell would tell it. It is valid once the
// command has exited.
func (c *Command) code() int {
	switch {
	case c.err != nil:
		return exitNotExecutable
	case c.status.Signaled():
		return exitSignalled + int(c.status.Signal())
	default:
		return c.status.ExitStatus()
	}
}

// endedBy says whether the signal has killed it.
func (c *Command) endedBy(s os.Signal) bool {
	return c.err == nil && c.status.Signaled() && os.Signal(c.status.Signal()) == s
}
