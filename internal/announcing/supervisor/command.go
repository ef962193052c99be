package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

// The exit codes of shells for a command that cannot be run. To the last one the
// number of the signal that killed the command is added.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignalled     = 128
)

// PassedOn are the signals that are passed to the command at once. SIGTERM and
// SIGINT are passed after the instance has left.
func PassedOn() []os.Signal {
	return []os.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
}

// Command is the process of an instance. It has a process group of its own, so that
// Ctrl-C in a terminal reaches only the announcer, which passes it on when the
// instance has left. A process in the background of a terminal cannot read from
// it: then the standard input of the command is empty.
type Command struct {
	process *os.Process
	exited  chan struct{} // closed when the process has ended; status and err are set
	status  syscall.WaitStatus
	err     error
}

// Start starts a command with the standard streams of p. The error is a
// [daemon.ExitError] with the code that a shell would exit with.
func Start(argv []string, p *daemon.Process) (*Command, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), isForAnnouncer)
	if p.Stdin != nil && !daemon.IsTerminal(p.Stdin) {
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

// isForAnnouncer reports whether a variable is from systemd, which would refuse the
// messages of another process than the one that it has started.
func isForAnnouncer(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == "NOTIFY_SOCKET" || name == "WATCHDOG_USEC" || name == "WATCHDOG_PID"
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

// waitAsInit is wait for the first process of a container, which inherits orphaned
// processes: it waits for these too.
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

// signal sends a signal. SIGINT and SIGQUIT go to the whole process group, as a
// terminal sends them, others to the process alone, as kill sends them.
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

// code is the exit code in the way of shells. It is valid once exited is closed.
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

// endedBy reports whether the signal has killed the process.
func (c *Command) endedBy(s os.Signal) bool {
	return c.err == nil && c.status.Signaled() && os.Signal(c.status.Signal()) == s
}
