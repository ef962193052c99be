package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// roleVar makes the binary of the test the announcer or, with [childArg] as its
// first argument, the command that an announcer wraps.
const (
	roleVar  = "ANNOUNCER_TEST"
	childArg = "child"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(roleVar) == "":
		testkit.AtOnce(16)
		os.Exit(m.Run())
	case len(os.Args) > 1 && os.Args[1] == childArg:
		child(os.Args[2:])
	default:
		main()
	}
}

// ended is how a run of the announcer ended.
type ended struct {
	code           int
	stdout, stderr string
}

// runToEnd runs the announcer inside the test, with an empty environment. It is
// for what ends by itself.
func runToEnd(t testing.TB, args ...string) ended {
	t.Helper()
	var stdout, stderr testkit.Output
	p := daemon.Process{Args: args, Getenv: func(string) string { return "" }, Stdout: &stdout, Stderr: &stderr}
	code := p.Run(t.Context(), "announcer", description, new(cli))
	return ended{code, stdout.String(), stderr.String()}
}

// process is a running announcer.
type process struct {
	*testkit.Process
	t testing.TB
}

// start runs the announcer with a clean environment, plus env.
func start(t testing.TB, env []string, args ...string) process {
	t.Helper()
	return startWith(t, env, nil, args...)
}

func startWith(t testing.TB, env []string, attr *syscall.SysProcAttr, args ...string) process {
	t.Helper()
	return process{testkit.Start(t, testkit.Command{Args: args, Env: append([]string{roleVar + "=1"}, env...), Attr: attr}), t}
}

// logs waits until standard error matches, and returns the first group.
func (p process) logs(pattern string) string {
	p.t.Helper()
	return p.Stderr.Await(p.t, pattern)
}

// prints waits until the command has written a line to standard output that
// matches, and returns the first group.
func (p process) prints(line string) string {
	p.t.Helper()
	return p.Stdout.Await(p.t, "^"+line+"$")
}

// registered waits until the announcer knows that its instance is listed, which
// readers of the registry see sooner.
func (p process) registered() {
	p.t.Helper()
	p.logs(`msg="?registered`)
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

// find is the instance as it is listed now, nil when it is not.
func (r *registry) find(k events.Key) *events.Instance {
	r.t.Helper()
	var e events.Entry
	var err error
	testkit.Eventually(r.t, "the registry answers", func() bool {
		e, err = r.kv.Lookup(r.t.Context(), k)
		return !errors.Is(err, kv.ErrUnavailable)
	})
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
	testkit.Eventually(r.t, fmt.Sprintf("%s to be listed as %s", k, status), func() bool {
		in = r.find(k)
		return in != nil && in.Status == status
	})
	return in
}

func (r *registry) awaitGone(k events.Key) {
	r.t.Helper()
	testkit.Eventually(r.t, k.String()+" to be gone", func() bool { return r.find(k) == nil })
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
	testkit.Eventually(r.t, "the first snapshot", func() bool { return h.String() != "" })
	return h
}

// always follows a service until the test ends. The function that it returns reports
// whether at each moment so far there was an instance that wanted calls.
func (r *registry) always(service string) func() bool {
	r.t.Helper()
	var seen, none atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = r.kv.Watch(ctx, service, func(s events.Snapshot) {
			if !slices.ContainsFunc(s.Entries, func(e events.Entry) bool { return e.Status == events.Up }) {
				none.Store(true)
			}
			seen.Store(true)
		})
	})
	r.t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	testkit.Eventually(r.t, "the first snapshot", seen.Load)
	return func() bool { return !none.Load() }
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
	serving.Go(func() { _ = srv.Serve(l) }) // returns ErrServerClosed
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

// port is a reserved port that refuses connections until the test listens, or
// releases it for another program.
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
	for range 100 {
		// A process that is being started may have what FreePorts listened on for a moment.
		number := testkit.FreePorts(t, 1)[0]
		if err = syscall.Bind(fd, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err == nil {
			p.addr = fmt.Sprintf("127.0.0.1:%d", number)
			return p
		}
	}
	t.Fatal(err)
	return nil
}

// release gives the port to a program that will listen itself. It waits until no
// process is being started: that has the port, too, until it runs its program.
func (p *port) release() {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	p.file.Close()
}

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
