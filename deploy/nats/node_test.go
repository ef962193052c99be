package nats_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// What turns this test binary into a server (see TestMain).
const (
	confVar = "PROXIMA_TEST_NATS_CONF" // the configuration to start with
	portVar = "PROXIMA_TEST_NATS_PORT" // instead of the configuration's, which may be taken here
)

// TestMain runs the tests or, as a child process of one, a server: so a test
// can kill it as a machine would.
func TestMain(m *testing.M) {
	conf := os.Getenv(confVar)
	if conf == "" {
		os.Exit(m.Run())
	}
	if err := serve(conf); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve does what nats-server -c does, until standard input ends: it goes
// when the test that started it does, whatever the reason.
func serve(conf string) error {
	opts, err := server.ProcessConfigFile(conf)
	if err != nil {
		return err
	}
	opts.NoSigs = true
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
	ns.Shutdown()
	ns.WaitForShutdown()
	return err
}

// node is a server in a process of its own.
type node struct {
	name string
	url  string
	conf string
	env  []string
	log  *output
	cmd  *exec.Cmd
}

// start starts the server, again if it was killed, with the same store.
func (n *node) start(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), confVar+"="+n.conf), n.env...)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.cmd = cmd
	t.Cleanup(func() {
		stdin.Close()
		n.kill()
		if t.Failed() {
			t.Logf("%s logged:\n%s", n.name, n.log)
			n.log.reset()
		}
	})
}

// kill ends the server without a word to anybody. It may be called twice.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait() // says that it was killed
	n.cmd = nil
}

// output is what a node logged.
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

func (o *output) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Reset()
}

// freePorts finds n free ports of the loopback interface, below those that
// the system hands out by itself: nobody gets one before the server does.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries == 1000 {
			t.Fatal("no free ports between 20000 and 30000")
		}
		port := 20000 + rand.IntN(10000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close() // held until all are found, so that no two are the same
		ports = append(ports, port)
	}
	return ports
}

// startSingle starts single.conf on a free port.
func startSingle(t *testing.T) *node {
	t.Helper()
	port := freePorts(t, 1)[0]
	n := &node{
		name: "single", conf: "single.conf", log: new(output),
		url: fmt.Sprintf("nats://127.0.0.1:%d", port),
		env: []string{"NATS_STORE_DIR=" + t.TempDir(), fmt.Sprintf("%s=%d", portVar, port)},
	}
	n.start(t)
	return n
}

// startCluster starts cluster.conf three times.
func startCluster(t *testing.T) []*node {
	t.Helper()
	const size = 3
	ports := freePorts(t, 3*size)
	client, peer, monitor := ports[:size], ports[size:2*size], ports[2*size:]
	routes := make([]string, size)
	for i := range routes {
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", peer[i])
	}
	nodes := make([]*node, size)
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		nodes[i] = &node{
			name: name, conf: "cluster.conf", log: new(output),
			url: fmt.Sprintf("nats://127.0.0.1:%d", client[i]),
			env: []string{
				"NATS_NAME=" + name,
				fmt.Sprintf("NATS_LISTEN=127.0.0.1:%d", client[i]),
				fmt.Sprintf("NATS_CLUSTER_LISTEN=127.0.0.1:%d", peer[i]),
				fmt.Sprintf("NATS_HTTP=127.0.0.1:%d", monitor[i]),
				"NATS_ROUTES=[" + strings.Join(routes, ", ") + "]",
				"NATS_STORE_DIR=" + t.TempDir(),
			},
		}
		nodes[i].start(t)
	}
	return nodes
}
