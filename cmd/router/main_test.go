package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// childEnv makes the test's own program the router, so that it can be run as
// a process without being built again.
const childEnv = "ROUTER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// output collects what a program writes.
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

// await waits until a line matches and returns its first group.
func (o *output) await(tb testing.TB, pattern string) string {
	tb.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(o.String()); m != nil {
			return m[len(m)-1]
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%q never came in:\n%s", pattern, o)
		}
	}
}

// process is a running router.
type process struct {
	tb             testing.TB
	cmd            *exec.Cmd
	stdout, stderr output
}

func start(tb testing.TB, args ...string) *process {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{tb: tb, cmd: exec.Command(exe, args...)}
	p.cmd.Env = append(os.Environ(), childEnv+"=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = p.cmd.Process.Kill() // unless it has ended
		_ = p.cmd.Wait()
	})
	return p
}

// stop asks it to end and returns its exit code.
func (p *process) stop() int {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.tb.Fatal(err)
	}
	return p.wait()
}

func (p *process) wait() int {
	p.tb.Helper()
	late := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait() // the code says it
	return p.cmd.ProcessState.ExitCode()
}

// result is what a command that has ended leaves.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command inside the test.
func run(tb testing.TB, env map[string]string, args ...string) result {
	tb.Helper()
	var stdout, stderr output
	p := &daemon.Process{Args: args, Getenv: func(k string) string { return env[k] }, Stdout: &stdout, Stderr: &stderr}
	code := p.Run(tb.Context(), "router", description, new(cli))
	return result{code, stdout.String(), stderr.String()}
}

// begin runs a command inside the test until end is called.
func begin(tb testing.TB, args ...string) (stdout, stderr *output, end func() int) {
	tb.Helper()
	stdout, stderr = new(output), new(output)
	p := &daemon.Process{Args: args, Getenv: func(string) string { return "" }, Stdout: stdout, Stderr: stderr}
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan int, 1)
	go func() { ended <- p.Run(ctx, "router", description, new(cli)) }()
	end = sync.OnceValue(func() int {
		cancel()
		return <-ended
	})
	tb.Cleanup(func() { end() })
	return stdout, stderr, end
}

// registry is a NATS server that listens, with a registry.
type registry struct {
	*kv.Registry
	url string
	ns  *server.Server
}

func newRegistry(tb testing.TB) *registry {
	tb.Helper()
	return registryOn(tb, natstest.Start(tb, natstest.Listen))
}

func registryOn(tb testing.TB, ns *server.Server) *registry {
	tb.Helper()
	r, err := kv.Open(tb.Context(), natstest.Connect(tb, ns), kv.Options{Memory: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return &registry{r, ns.ClientURL(), ns}
}

func (r *registry) list(tb testing.TB, service, id, zone string, change func(*events.Instance)) (events.Instance, uint64) {
	tb.Helper()
	in := events.Instance{
		Service: service, ID: id, Location: topology.Location{Region: "r1", Zone: zone}, TTL: time.Hour,
		Endpoints: map[string]string{"nats": service + "." + id}, Started: time.Now(),
	}
	if change != nil {
		change(&in)
	}
	revision, err := r.Register(tb.Context(), in, 0)
	if err != nil {
		tb.Fatal(err)
	}
	return in, revision
}

func oneLine(s string) bool { return strings.Count(s, "\n") == 1 && strings.HasSuffix(s, "\n") }
