package dialer_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/proxima-discovery/proxima/pkg/dialer"
)

// A name has two addresses, and a process listens at one of them.
func Example() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, _ := net.SplitHostPort(listener.Addr().String())

	d := dialer.Dialer{
		Timeout: 5 * time.Second,
		Lookup: func(context.Context, string) ([]netip.Addr, error) { // default: the system's resolver
			return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}, nil
		},
	}
	conn, err := d.DialContext(context.Background(), "tcp", net.JoinHostPort("user.internal", port))
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
	fmt.Println(host)
	// Output: 127.0.0.1
}
