package natstest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// What turns a test binary into a server, see [Main].
const (
	confVar = "PROXIMA_TEST_NATS_CONF" // the configuration to start with
	portVar = "PROXIMA_TEST_NATS_PORT" // instead of the configuration's
)

// Main runs the tests of a package or, in a child process that [Process.Start]
// started, a server: so a test can do to it what happens to machines. It is all
// that TestMain has to call, and does not return.
func Main(m *testing.M) {
	conf := os.Getenv(confVar)
	if conf == "" {
		os.Exit(testkit.Main(m))
	}
	if err := serve(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve does what nats-server -c does, signals included, and ends with its
// standard input: it goes when the test that started it does, whatever the reason.
func serve(conf string) error {
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		return err
	}
	if port := os.Getenv(portVar); port != "" {
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return err
		}
		opts.HTTPPort = server.RANDOM_PORT
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	ns.ConfigureLogger()
	ns.Start()
	_, err = io.Copy(io.Discard, os.Stdin)
	Stop(ns)
	return err
}

// Process is a NATS server in a process of its own: it can be killed, stopped
// and started again with the store that it had. The package of the test must
// call [Main]. It is for one goroutine at a time.
type Process struct {
	Name string
	// URL is where clients reach it, Monitor where its health can be asked for
	// ("" if it is not to be).
	URL, Monitor string
	// Conf is the file with its configuration, Env what that refers to, as in
	// os.Environ.
	Conf string
	Env  []string
	// Port for clients, if it is not the one of the configuration; then
	// monitoring gets a random one too.
	Port int

	log testkit.Output
	run *testkit.Process
}

// StartSingle starts one server with a configuration that reads where to store
// from NATS_STORE_DIR, as deploy/nats/single.conf, on a free port, and waits
// until it takes clients.
func StartSingle(tb testing.TB, conf string) *Process {
	tb.Helper()
	port := testkit.FreePorts(tb, 1)[0]
	p := &Process{
		Name: "single", Conf: conf, Port: port, URL: fmt.Sprintf("nats://127.0.0.1:%d", port),
		Env: []string{"NATS_STORE_DIR=" + tb.TempDir()},
	}
	p.Start(tb)
	p.Ready(tb)
	return p
}

// Start starts the server, again if it has ended, and does not wait until it
// answers, see [Process.Ready]. It ends with the test that is given, which shows
// what the server logged if it failed.
func (p *Process) Start(tb testing.TB) {
	tb.Helper()
	if p.Running() {
		tb.Fatalf("natstest: server %s runs already", p.Name)
	}
	env := append([]string{confVar + "=" + p.Conf}, p.Env...)
	if p.Port != 0 {
		env = append(env, portVar+"="+strconv.Itoa(p.Port))
	}
	p.run = testkit.Start(tb, testkit.Command{Args: []string{p.Name}, Env: env, Stdout: &p.log, Stderr: &p.log})
}

// Ready waits until the server takes clients.
func (p *Process) Ready(tb testing.TB) {
	tb.Helper()
	p.until(tb, "takes clients", func() error {
		nc, err := nats.Connect(p.URL)
		if err == nil {
			nc.Close()
		}
		return err
	})
}

// Healthy waits until the server reports that it is healthy: it takes clients,
// knows JetStream's leader, and its copies of the streams are complete.
func (p *Process) Healthy(tb testing.TB) {
	tb.Helper()
	p.until(tb, "is healthy", func() error { return p.Ask("/healthz", new(struct{})) })
}

// until waits as [testkit.Retry] does, while the process lives.
func (p *Process) until(tb testing.TB, what string, try func() error) {
	tb.Helper()
	testkit.Retry(tb, "server "+p.Name+" "+what, func(context.Context) error {
		err := try()
		if err != nil && !p.Running() {
			tb.Fatalf("natstest: server %s has ended: %v", p.Name, err)
		}
		return err
	})
}

// Ask reads what the server's monitoring answers, as JSON. A status other than
// 200 is an error.
func (p *Process) Ask(path string, answer any) error {
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	got, err := client.Get(p.Monitor + path)
	if err != nil {
		return err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if err != nil {
		return err
	}
	if got.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", got.Status, body)
	}
	return json.Unmarshal(body, answer)
}

// Running reports whether the process exists; a stopped one does.
func (p *Process) Running() bool { return p.run != nil && p.run.Running() }

// Address is where clients reach the server, as a [Proxy] wants it.
func (p *Process) Address() string { return strings.TrimPrefix(p.URL, "nats://") }

// PID is the number of the process, of the last one if it has ended.
func (p *Process) PID() int { return p.run.PID() }

// Log is what the server has logged since it was first started.
func (p *Process) Log() string { return p.log.String() }

// Kill ends the server without a goodbye, also a stopped one, and waits until it
// has ended. It may be called twice.
func (p *Process) Kill() {
	if p.run != nil {
		p.run.Kill()
	}
}
