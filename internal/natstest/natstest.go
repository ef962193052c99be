// Package natstest runs real NATS servers inside tests: without a port for
// tests on fake time, with one where sockets matter.
package natstest

import (
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
)

// The server's one process-wide clock goroutine must start outside any bubble.
func init() { ats.Register() }

// Bubble is [synctest.Test] for tests that run a server inside the bubble.
// Tests of a package that uses it must not be parallel.
func Bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	// Empties the pool of timers of nats.go: its timers belong to the bubble
	// that made them.
	emptyPools()
	synctest.Test(t, f)
}

// Parallel is t.Parallel for tests beside those that use [Bubble], which run before: a
// timer of a bubble must not be used outside of it either.
func Parallel(t *testing.T) {
	t.Parallel()
	emptied.Do(emptyPools)
}

var emptied sync.Once

// emptyPools empties all pools: what is in one survives a collection once.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}

// Start runs a server with JetStream and no listener; reach it with [Connect].
// Options may be changed by adjust.
func Start(tb testing.TB, adjust ...func(*server.Options)) *server.Server {
	tb.Helper()
	opts := &server.Options{
		ServerName: "test", DontListen: true, JetStream: true, NoLog: true, NoSigs: true,
		StoreDir: tb.TempDir(),
	}
	for _, f := range adjust {
		f(opts)
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		tb.Fatalf("natstest: new server: %v", err)
	}
	if os.Getenv("NATSTEST_LOG") != "" {
		ns.ConfigureLogger()
	}
	ns.Start()
	tb.Cleanup(func() { Stop(ns) })
	if !ns.ReadyForConnections(10 * time.Second) {
		tb.Fatal("natstest: the server is not ready after 10s")
	}
	return ns
}

// Listen makes [Start] listen on a free port of the loopback interface.
func Listen(o *server.Options) {
	o.DontListen = false
	o.Host, o.Port = "127.0.0.1", server.RANDOM_PORT
}

// ListenAt makes [Start] listen on an address, host:port or nats://host:port.
func ListenAt(address string) func(*server.Options) {
	return func(o *server.Options) {
		a, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(address, "nats://"))
		if err != nil {
			panic(err)
		}
		o.DontListen, o.Host, o.Port = false, a.IP.String(), a.Port
	}
}

// Stop stops a server and waits until it has ended. It may be called twice.
func Stop(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}

// Connect connects to ns in process; the connection is closed with the test.
func Connect(tb testing.TB, ns *server.Server, opts ...nats.Option) *nats.Conn {
	tb.Helper()
	opts = append([]nats.Option{nats.InProcessServer(ns), nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.ReconnectBufSize(-1)}, opts...)
	nc, err := nats.Connect("", opts...)
	if err != nil {
		tb.Fatalf("natstest: connect: %v", err)
	}
	tb.Cleanup(nc.Close)
	return nc
}
