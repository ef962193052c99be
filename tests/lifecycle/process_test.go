//go:build faults && linux

package lifecycle

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// process is a command, or an instance, that runs.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	said *output
	done chan struct{}
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// run starts a program. It dies with the test, and what it has started with its
// standard input.
func run(t testing.TB, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...), said: &output{}, done: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	p.cmd.WaitDelay = time.Second
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	keep, err := keepOpen(stdin)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the state tells all
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		keep.Close()
		<-p.done
		if t.Failed() {
			t.Logf("%s %s\n%s", filepath.Base(name), strings.Join(args, " "), p.said)
		}
	})
	return p
}

// keepOpen is a copy of the writing end of a pipe: [exec.Cmd] closes its own
// when the process has ended, and what that has started may live on.
func keepOpen(pipe io.WriteCloser) (*os.File, error) {
	fd, err := syscall.Dup(int(pipe.(interface{ Fd() uintptr }).Fd()))
	if err != nil {
		return nil, fmt.Errorf("keep a pipe open: %w", err)
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "stdin"), nil
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v", s, err)
	}
}

// exit waits for the end and returns the exit code, -1 if a signal ended it.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("it does not end:\n%s", p.said)
		return 0
	}
}

// says waits until the output matches, and returns the first group.
func (p *process) says(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	eventually(p.t, "the output to match "+pattern, func() bool {
		found = re.FindStringSubmatch(p.said.String())
		return found != nil
	})
	return found[len(found)-1]
}

// eventually polls until ok, and fails the test when that takes too long. It
// returns how long it took.
func eventually(t testing.TB, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > patience {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// address is a free one of the loopback network, on a host that no connection
// comes from, so that it stays free while its owner is replaced.
func address(t testing.TB, host int) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.1.%d:0", host))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// service starts an instance that nobody has announced, and waits until it
// listens.
func service(t testing.TB, address string) *process {
	t.Helper()
	p := run(t, []string{serviceAt + "=" + address}, os.Args[0])
	eventually(t, address+" to listen", func() bool { return pidAt(address) == p.cmd.Process.Pid })
	return p
}

// pidAt is the process id of the instance that answers at an address, 0 if
// none does.
func pidAt(address string) int {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + "/")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	pid, _ := strconv.Atoi(string(body))
	return pid
}
