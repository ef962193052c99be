package dialer_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/dialer"
)

// resolver returns these addresses for every name, and counts.
func resolver(times *int, addrs ...string) func(context.Context, string) ([]netip.Addr, error) {
	return func(context.Context, string) (all []netip.Addr, err error) {
		*times++
		for _, a := range addrs {
			all = append(all, netip.MustParseAddr(a))
		}
		return all, nil
	}
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("this system has no %s: %v", address, err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func port(l net.Listener) string {
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

func TestAllAddressesOfANameAreTried(t *testing.T) {
	l := listen(t, "127.0.0.7:0")
	n := 0
	d := dialer.Dialer{Timeout: 5 * time.Second, Lookup: resolver(&n, "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.7")}
	for range 2 {
		conn, err := d.DialContext(t.Context(), "tcp", "user.internal:"+port(l))
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != l.Addr().String() {
			t.Errorf("connected to %s", got)
		}
		conn.Close()
	}
	if n != 2 {
		t.Errorf("resolved %d times for 2 connections", n)
	}
	l.Close()
	_, err := d.DialContext(t.Context(), "tcp", "user.internal:"+port(l))
	if !errors.Is(err, syscall.ECONNREFUSED) || strings.Count(err.Error(), "refused") != 4 {
		t.Errorf("none listens: %v", err)
	}
}

func TestFamiliesTakeTurns(t *testing.T) {
	var mu sync.Mutex
	var tried []string
	n := 0
	d := dialer.Dialer{
		Timeout: 5 * time.Second, Lookup: resolver(&n, "::1", "::2", "127.0.0.2", "127.0.0.3", "::3"),
		Control: func(_, address string, _ syscall.RawConn) error {
			mu.Lock()
			defer mu.Unlock()
			tried = append(tried, address)
			return errors.New("not allowed")
		},
	}
	_, err := d.DialContext(t.Context(), "tcp", "user.internal:80")
	if err == nil || strings.Count(err.Error(), "not allowed") < 2 {
		t.Errorf("got %v", err)
	}
	want := []string{"[::1]:80", "127.0.0.2:80", "[::2]:80", "127.0.0.3:80", "[::3]:80"}
	if !slices.Equal(tried, want) && !slices.Equal(tried, []string{want[1], want[3]}) { // without IPv6
		t.Errorf("tried %v, want %v", tried, want)
	}
}

// An address that does not answer must not take the time of the others.
func TestASilentAddressDelaysTheNextByAQuarterOfASecond(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("a full queue of connections is silent on Linux only")
	}
	silent := full(t)
	l := listen(t, "127.0.0.9:"+port(silent))
	n := 0
	d := dialer.Dialer{Timeout: 1500 * time.Millisecond, Lookup: resolver(&n, "127.0.0.8", "127.0.0.9")}
	began := time.Now()
	conn, err := d.DialContext(t.Context(), "tcp", "user.internal:"+port(l))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if took := time.Since(began); took < 200*time.Millisecond || conn.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("connected to %s after %v: the first address was not silent", conn.RemoteAddr(), took)
	}
}

// full is a listener on 127.0.0.8 whose queue is full: the kernel drops what comes.
func full(t *testing.T) net.Listener {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 8}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.8"), uint16(name.(*syscall.SockaddrInet4).Port)).String()
	for range 4 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return stub(address)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("the queue does not fill")
	return nil
}

// stub is only an address.
type stub string

func (stub) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (stub) Close() error              { return nil }
func (s stub) Addr() net.Addr          { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(string(s))) }

func TestAnAddressIsDialledWithoutAResolver(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	n := 0
	d := dialer.Dialer{Timeout: time.Second, Lookup: resolver(&n)}
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, bad := range []string{"", "user.internal", "user.internal:port", "user.internal:80"} {
		if conn, err := d.DialContext(t.Context(), "tcp", bad); err == nil {
			conn.Close()
			t.Errorf("%q: connected", bad)
		}
	}
}
