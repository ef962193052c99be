package latency_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// On real sockets and real time: the one test that is not simulated.
func TestMeasuresAndClosesARealConnection(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan error, 100) // what the server reads
	var server sync.WaitGroup
	server.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			_, err = conn.Read(make([]byte, 1))
			seen <- err
			_ = conn.Close()
		}
	})
	t.Cleanup(server.Wait)
	t.Cleanup(func() { _ = lis.Close() })
	_, port, err := net.SplitHostPort(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}

	p := start(t, nil, latency.Options{})
	list := []*latency.Path{p.Path(latency.Target{Address: lis.Addr().String()}), p.Path(latency.Target{Address: "localhost:" + port})}
	p.group("user").Set(members(list...))
	for i := range list {
		select {
		case err := <-seen:
			if !errors.Is(err, io.EOF) {
				t.Errorf("the server read %v, want a connection that was closed, not reset", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no connection for path %d", i)
		}
	}
	for i, pa := range list {
		testkit.Eventually(t, "it is measured", func() bool { _, ok := pa.Measured(); return ok })
		if d, _ := pa.Measured(); d > time.Second {
			t.Errorf("path %d: %v over the loopback interface", i, d)
		}
	}
}

func TestAddressesThatCannotBeConnectedToCountAsFailures(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := lis.Addr().String()
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}

	var log testkit.Output
	p := start(t, nil, latency.Options{}, latency.Caller{Logger: log.Logger(slog.LevelDebug)})
	for _, address := range []string{closed, "no-port", "unknown.invalid:80", "127.0.0.1:http:80", "10.0.0.1:99999"} {
		pa := p.Path(latency.Target{Address: address})
		p.group(address).Set(members(pa))
		testkit.Eventually(t, address+" fails", func() bool { return pa.Failures() > 0 })
		testkit.Eventually(t, address+" is logged", func() bool { return log.Contains(address) })
		if d, ok := pa.Measured(); ok {
			t.Errorf("%s: measured %v", address, d)
		}
	}
	if !strings.Contains(log.String(), "service="+closed) {
		t.Errorf("no service in the log:\n%s", log.String())
	}
}
