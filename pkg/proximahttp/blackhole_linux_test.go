package proximahttp_test

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/proximahttp"
)

// blackHole is an address that answers no SYN: its backlog is full.
func blackHole(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	for range 16 {
		c, err := net.DialTimeout("tcp", l.Addr().String(), 200*time.Millisecond)
		if err != nil {
			return l.Addr().String()
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

func TestADeadMachineCostsOneDialTimeout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, proximahttp.Options{}, at("dead", "a", events.HTTP, blackHole(t)), serve(t, "far", "b", says("far")))
	start := time.Now()
	resp, err := f.client().Do(request(t, "POST", nil)) // nothing was sent
	if _, got := read(t, resp, err); got != "far" {
		t.Errorf("answered by %s", got)
	}
	if took := time.Since(start); took < time.Second || took > 4*time.Second {
		t.Errorf("it took %v, want about 1.5s", took)
	}
}
