package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
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
	testkit.AtOnce(16)
	os.Exit(m.Run())
}

// start starts the router as a process.
func start(tb testing.TB, args ...string) *testkit.Process {
	tb.Helper()
	return testkit.Start(tb, testkit.Command{Args: args, Env: []string{childEnv + "=1"}})
}

// result is what a command that has ended leaves.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a command inside the test.
func run(tb testing.TB, env map[string]string, args ...string) result {
	tb.Helper()
	var stdout, stderr testkit.Output
	p := &daemon.Process{Args: args, Getenv: func(k string) string { return env[k] }, Stdout: &stdout, Stderr: &stderr}
	code := p.Run(tb.Context(), "router", description, new(cli))
	return result{code, stdout.String(), stderr.String()}
}

// begin runs a command inside the test until end is called.
func begin(tb testing.TB, args ...string) (stdout, stderr *testkit.Output, end func() int) {
	tb.Helper()
	stdout, stderr = new(testkit.Output), new(testkit.Output)
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
