package probe_test

import (
	"net"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

func TestOnlyTCPConnectionsAreObserved(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	if got := probe.Observe(here); got != here {
		t.Errorf("a pipe becomes %T", got)
	}
	for _, conn := range []net.Conn{nil, here, new(net.TCPConn)} {
		c := probe.Observed(conn)
		if rtt, ok := c.RTT(); c != nil || ok {
			t.Errorf("%T: %v, %v", conn, rtt, ok)
		}
	}
}

func BenchmarkRTT(b *testing.B) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer lis.Close()
	conn, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	c := probe.Observed(probe.Observe(conn))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.RTT()
	}
}
