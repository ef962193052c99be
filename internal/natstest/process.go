package natstest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// What turns a test binary into a server, see [Main].
const (
	confVar = "PROXIMA_TEST_NATS_CONF" // the configuration to start with
	portVar = "PROXIMA_TEST_NATS_PORT" // instead of the configuration's
)

// startTime is how long a server may take to start, and to end when it is told
// to. None takes that long; machines that run tests may be busy.
const startTime = time.Minute

// logged is how many lines of a server's log a failed test shows.
const logged = 100

// Main runs the tests of a package or, in a child process that [Process.Start]
// started, a server: so a test can do to it what happens to machines. It is all
// that TestMain has to call, and does not return.
func Main(m *testing.M) {
	conf := os.Getenv(confVar)
	if conf == "" {
		os.Exit(m.Run())
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

	log   output
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}
}

// Start starts the server, again if it has ended, and does not wait until it
// answers, see [Process.Ready]. It ends with the test that is given, which shows
// what the server logged if it failed.
func (p *Process) Start(tb testing.TB) {
	tb.Helper()
	if p.Running() {
		tb.Fatalf("natstest: server %s runs already", p.Name)
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatalf("natstest: start server %s: %v", p.Name, err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), confVar+"="+p.Conf), p.Env...)
	if p.Port != 0 {
		cmd.Env = append(cmd.Env, portVar+"="+strconv.Itoa(p.Port))
	}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	bind(cmd)
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		tb.Fatalf("natstest: start server %s: %v", p.Name, err)
	}
	ended := make(chan struct{})
	p.cmd, p.stdin, p.ended = cmd, stdin, ended
	go func() { // ends with the process, which ends with the test
		_ = cmd.Wait() // says how it ended, which is what the test wanted
		close(ended)
	}()
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("server %s logged at last:\n%s", p.Name, p.log.take(logged))
		}
	})
}

// Ready waits until the server takes clients.
func (p *Process) Ready(tb testing.TB) {
	tb.Helper()
	for end := time.Now().Add(startTime); ; time.Sleep(10 * time.Millisecond) {
		nc, err := nats.Connect(p.URL)
		if err == nil {
			nc.Close()
			return
		}
		if !p.Running() {
			tb.Fatalf("natstest: server %s has ended: %v", p.Name, err)
		}
		if time.Now().After(end) {
			tb.Fatalf("natstest: server %s does not answer after %v: %v", p.Name, startTime, err)
		}
	}
}

// Healthy waits until the server says that it is well: it takes clients, knows
// who leads JetStream, and its copies of the streams have all that there is.
func (p *Process) Healthy(tb testing.TB) {
	tb.Helper()
	for end := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		why := p.health()
		if why == nil {
			return
		}
		if !p.Running() {
			tb.Fatalf("natstest: server %s has ended", p.Name)
		}
		if time.Now().After(end) {
			tb.Fatalf("natstest: server %s is not well after %v: %v", p.Name, startTime, why)
		}
	}
}

func (p *Process) health() error { return p.Ask("/healthz", new(struct{})) }

// Ask reads what the server's monitoring answers, as JSON. What is not well is
// an error.
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

// Running says whether the process exists; a stopped one does.
func (p *Process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Address is where clients reach the server, as a [Proxy] wants it.
func (p *Process) Address() string { return strings.TrimPrefix(p.URL, "nats://") }

// PID is the number of the process, of the last one if it has ended.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is what the server has logged since it was first started.
func (p *Process) Log() string { return p.log.String() }

// Kill ends the server without a word to anybody, also a stopped one, and waits
// until it is gone. It may be called twice.
func (p *Process) Kill() {
	if !p.Running() {
		return
	}
	_ = p.cmd.Process.Kill() // fails only if it is gone
	<-p.ended
	_ = p.stdin.Close() // closed with the process
}

// await waits until a server that was told to end has ended.
func (p *Process) await(tb testing.TB) {
	tb.Helper()
	select {
	case <-p.ended:
	case <-time.After(startTime):
		p.Kill()
		tb.Errorf("natstest: server %s had to be killed: it did not end within %v", p.Name, startTime)
	}
}

// output is what a server logged.
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

// take returns the last lines of what was logged, once.
func (o *output) take(lines int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.buf.Reset()
	all := strings.SplitAfter(o.buf.String(), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// FreePorts finds n free ports of the loopback interface, below those that
// the system hands out by itself. No other test gets one of them until this one
// ends, and none of another package that runs at the same time.
func FreePorts(tb testing.TB, n int) []int {
	tb.Helper()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries == 1000 {
			tb.Fatal("natstest: no free ports between 20000 and 30000")
		}
		port := 20000 + rand.IntN(10000)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		// Nothing here speaks UDP: who has that port has the number.
		mark, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			_ = mark.Close()
			continue
		}
		_ = l.Close()
		tb.Cleanup(func() { _ = mark.Close() })
		ports = append(ports, port)
	}
	return ports
}

// FreeAddress is one of FreePorts: where nobody listens until the test does.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf("127.0.0.1:%d", FreePorts(tb, 1)[0])
}
