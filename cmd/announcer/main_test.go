package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// binary is the announcer, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv("ANNOUNCER_TEST_CHILD") != "" {
		child(os.Args[1:])
		return
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "announcer-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "announcer")
		args := []string{"build", "-o", binary}
		if raceEnabled {
			args = append(args, "-race")
		}
		if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// process is a running announcer.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	done   chan struct{}
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

// start runs the announcer with a clean environment, plus env.
func start(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return startWith(t, env, nil, args...)
}

func startWith(t testing.TB, env []string, attr *syscall.SysProcAttr, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(binary, args...), stdout: &output{}, stderr: &output{}, done: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "ANNOUNCER_TEST_CHILD=1"}, env...)
	p.cmd.SysProcAttr = attr
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.WaitDelay = patience
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // the state tells all
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("announcer %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), p.stdout, p.stderr)
		}
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v", s, err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatal("it does not end")
		return 0
	}
}

// says waits until standard error matches.
func (p *process) says(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	eventually(p.t, "a line that matches "+pattern, func() bool {
		found = re.FindStringSubmatch(p.stderr.String())
		return found != nil
	})
	return found
}

// registered waits until the announcer knows that its instance is listed,
// which is later than others can.
func (p *process) registered() {
	p.t.Helper()
	p.says(`msg="?registered`)
}

// eventually polls until ok, and fails the test when that takes too long.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// registry is a NATS server that listens, and a reader of its bucket.
type registry struct {
	t   testing.TB
	url string
	kv  *kv.Registry
	ns  *server.Server
}

func newRegistry(t testing.TB) *registry {
	t.Helper()
	ns := natstest.Start(t, natstest.Listen)
	return &registry{t, ns.ClientURL(), openRegistry(t, ns), ns}
}

func openRegistry(t testing.TB, ns *server.Server) *kv.Registry {
	t.Helper()
	r, err := kv.Open(t.Context(), natstest.Connect(t, ns), kv.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// at makes a server listen where the URL says.
func at(url string) func(*server.Options) {
	return func(o *server.Options) {
		a, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(url, "nats://"))
		if err != nil {
			panic(err)
		}
		o.DontListen, o.Host, o.Port = false, a.IP.String(), a.Port
	}
}

// find is the instance as it is listed now, nil when it is not.
func (r *registry) find(k events.Key) *events.Instance {
	r.t.Helper()
	e, err := r.kv.Lookup(r.t.Context(), k)
	if errors.Is(err, kv.ErrNotFound) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return e.Instance
}

func (r *registry) await(k events.Key, status events.Status) *events.Instance {
	r.t.Helper()
	var in *events.Instance
	eventually(r.t, fmt.Sprintf("%s to be listed as %s", k, status), func() bool {
		in = r.find(k)
		return in != nil && in.Status == status
	})
	return in
}

func (r *registry) awaitGone(k events.Key) {
	r.t.Helper()
	eventually(r.t, k.String()+" to be gone", func() bool { return r.find(k) == nil })
}

// history records what becomes of one instance, until the test ends.
type history struct {
	mu     sync.Mutex
	states []string
}

func (r *registry) watch(k events.Key) *history {
	r.t.Helper()
	h := &history{}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = r.kv.Watch(ctx, k.Service, func(s events.Snapshot) {
			state := "absent"
			for _, e := range s.Entries {
				if e.Key() == k {
					state = string(e.Status)
				}
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.states) == 0 || h.states[len(h.states)-1] != state {
				h.states = append(h.states, state)
			}
		})
	})
	r.t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	eventually(r.t, "the first snapshot", func() bool { return h.String() != "" })
	return h
}

func (h *history) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.states, " ")
}

// httpServer answers with a status that may be changed.
type httpServer struct {
	net.Listener
	mu     sync.Mutex
	status int
}

func newHTTPServer(t testing.TB) *httpServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httpServer{Listener: l, status: http.StatusOK}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.WriteHeader(s.status)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) }) // says that it was closed
	t.Cleanup(func() {
		srv.Close()
		serving.Wait()
	})
	return s
}

func (s *httpServer) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// port is a port that is ours and refuses connections, until somebody
// listens: other tests do not get it meanwhile.
type port struct {
	t    testing.TB
	file *os.File
	addr string
}

func newPort(t testing.TB) *port {
	t.Helper()
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	p := &port{t, os.NewFile(uintptr(fd), "port"), ""}
	t.Cleanup(p.release)
	number := testkit.FreePorts(t, 1)[0]
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	p.addr = fmt.Sprintf("127.0.0.1:%d", number)
	return p
}

// release gives the port to a program that will listen itself.
func (p *port) release() { p.file.Close() }

// listen lets connections in.
func (p *port) listen() {
	p.t.Helper()
	if err := syscall.Listen(int(p.file.Fd()), 10); err != nil {
		p.t.Fatal(err)
	}
}

// deadAddress is an address that refuses connections as long as the test runs.
func deadAddress(t testing.TB) string {
	t.Helper()
	return newPort(t).addr
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
