package probe_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// near is more than any round trip on the loopback interface, and less than any
// other time in these tests.
const near = 10 * time.Millisecond

// watched opens a connection to a server that answers each byte after it has
// worked.
func watched(t *testing.T, work time.Duration) net.Conn {
	t.Helper()
	address := listen(t, func(conn net.Conn) {
		b := make([]byte, 1)
		for {
			if _, err := io.ReadFull(conn, b); err != nil {
				return
			}
			time.Sleep(work) // the server takes its time
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
	})
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return probe.Observe(conn)
}

// exchange sends a byte and waits for the answer.
func exchange(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

func TestAConnectionInUseGivesASampleASecond(t *testing.T) {
	t.Parallel()
	conn := watched(t, 0)
	began := time.Now()
	var at []time.Duration
	for len(at) < 3 { // busy machines take longer to answer than the network does
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d samples in 30s", len(at))
		}
		exchange(t, conn)
		asked := time.Since(began)
		if rtt, ok := probe.Observed(conn).RTT(); ok {
			at = append(at, asked)
			if rtt <= 0 || rtt > near {
				t.Errorf("%v on the loopback interface", rtt)
			}
		}
	}
	for i := range at[1:] {
		if pause := at[i+1] - at[i]; pause < 900*time.Millisecond {
			t.Errorf("samples at %v", at)
		}
	}
}

// The kernel takes the time until the answer, which bears the acknowledgement,
// for the round trip.
func TestTheTimeOfACallIsNotMeasuredAsDistance(t *testing.T) {
	t.Parallel()
	conn := watched(t, 2*near)
	began, samples := time.Now(), 0
	for time.Since(began) < 2500*time.Millisecond {
		exchange(t, conn)
		if rtt, ok := probe.Observed(conn).RTT(); ok {
			samples++
			if rtt <= 0 || rtt > near {
				t.Errorf("%v on the loopback interface", rtt)
			}
		}
	}
	if samples != 1 {
		t.Errorf("%d samples, want the one of the opening", samples)
	}
}

func TestAnIdleConnectionGivesNoSample(t *testing.T) {
	t.Parallel()
	conn := watched(t, 0)
	exchange(t, conn)
	time.Sleep(1100 * time.Millisecond) // after that a connection in use gives a sample
	if rtt, ok := probe.Observed(conn).RTT(); ok {
		t.Errorf("got %v", rtt)
	}
	_ = conn.Close()
	time.Sleep(time.Second) // as above
	if rtt, ok := probe.Observed(conn).RTT(); ok {
		t.Errorf("got %v of a connection that is closed", rtt)
	}
}

func TestAConnectionIsFoundBelowTLS(t *testing.T) {
	srv, trust, _ := secureServer(t, unimplemented, false)
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	trust.ServerName = "127.0.0.1"
	secure := tls.Client(probe.Observe(conn), trust)
	defer secure.Close()
	if err := secure.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rtt, ok := probe.Observed(secure).RTT(); !ok || rtt <= 0 || rtt > near {
		t.Errorf("got %v, %v", rtt, ok)
	}
}
