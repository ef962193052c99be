package guard_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/router/forwarding"
	"github.com/proxima-discovery/proxima/internal/router/guard"
)

// Every way to write an address that must never be called. Those that are no
// IP addresses are names to us: a resolver may make addresses of them, and
// what comes out is looked at, not what was written.
var forbidden = []string{
	// The metadata service of most clouds, and what else is link-local.
	"169.254.169.254", "169.254.0.1", "169.254.255.255", "169.254.170.2", "169.254.169.253", "169.254.169.123",
	"::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "0:0:0:0:0:ffff:a9fe:a9fe", "::FFFF:A9FE:A9FE",
	"64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:2:3::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::",
	"2002:a9fe:a9fe::", "2002:a9fe:a9fe::1", "::169.254.169.254", "::a9fe:a9fe", "::ffff:0:a9fe:a9fe", "::ffff:0:169.254.169.254",
	"fe80::1", "fe80::1%lo", "fe80::a9fe:a9fe", "febf:ffff::1", "fe90::1", "fec0::1", "feff::1",
	"fd00:ec2::254", "fd00:ec2::253", "fd00:ec2::23", "fd20:ce::254",
	"100.100.100.200", "::ffff:100.100.100.200", "64:ff9b::6464:64c8", "168.63.129.16", "::ffff:a83f:8110", "192.0.0.192",
	// Unspecified, which is this machine to many kernels.
	"0.0.0.0", "0.0.0.1", "0.127.0.1", "::", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0", "64:ff9b::", "2002::", "::0.0.0.2",
	// Multicast and broadcast.
	"224.0.0.1", "239.255.255.255", "232.1.2.3", "::ffff:224.0.0.251", "ff02::1", "ff05::1:3", "ff0e::1", "255.255.255.255", "64:ff9b::ffff:ffff",
	"2002:e000:1::",
}

var names = []string{
	"2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "0xa9.0xfe.0xa9.0xfe", "169.254.169.254.",
	"0", "0x0", "127.1.invalid", "metadata.invalid", "１６９.２５４.１６９.２５４",
}

func TestNeverCallsForbiddenAddressesHoweverTheyAreWritten(t *testing.T) {
	if n := len(forbidden) + len(names); n < 60 {
		t.Fatalf("only %d addresses", n)
	}
	g := guard.New()
	all := guard.New(netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
	for _, s := range forbidden {
		addr := netip.MustParseAddr(s)
		if err := g.Check(addr); !errors.Is(err, guard.ErrForbidden) {
			t.Errorf("%s is allowed", s)
		}
		if err := all.Check(addr); !errors.Is(err, guard.ErrForbidden) {
			t.Errorf("%s is allowed when everything is", s)
		}
	}
	for _, host := range append(append([]string{}, forbidden...), names...) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		conn, err := g.DialContext(ctx, "tcp", net.JoinHostPort(host, "80"))
		cancel()
		if err == nil {
			conn.Close()
			t.Errorf("%s was called", host)
			continue
		}
		if _, ok := netip.ParseAddr(host); ok == nil && !errors.Is(err, guard.ErrForbidden) {
			t.Errorf("%s was tried: %v", host, err)
		}
	}
}

func TestANameIsJudgedByWhatItResolvesTo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = guard.New(netip.MustParsePrefix("10.0.0.0/8")).DialContext(t.Context(), "tcp", "localhost:"+port)
	if !errors.Is(err, guard.ErrForbidden) {
		t.Errorf("localhost is in 10.0.0.0/8: %v", err)
	}
	conn, err := guard.New(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")).DialContext(t.Context(), "tcp", "localhost:"+port)
	if err != nil {
		t.Fatalf("localhost is not in 127.0.0.0/8: %v", err)
	}
	conn.Close()
}

func TestAllowsWhatIsInAnAllowedNetwork(t *testing.T) {
	var allow []netip.Prefix
	for _, s := range []string{"10.1.0.0/16", "192.168.7.9/32", "2001:db8::/32", "::ffff:172.16.0.0/108"} {
		p, err := forwarding.ParseNetwork(s)
		if err != nil {
			t.Fatal(err)
		}
		allow = append(allow, p)
	}
	g := guard.New(allow...)
	for s, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "::ffff:10.1.2.3": true, "192.168.7.9": true, "192.168.7.8": false,
		"2001:db8::7": true, "2001:db9::7": false, "127.0.0.1": false, "::1": false, "172.16.3.4": true, "172.32.0.1": false,
		"64:ff9b::a01:203": false, // reaches 10.1.2.3 through a gateway, and was not allowed as such
	} {
		if err := g.Check(netip.MustParseAddr(s)); (err == nil) != want {
			t.Errorf("%s: %v, want allowed %v", s, err, want)
		}
	}
	for _, s := range []string{"127.0.0.1", "::1", "10.0.0.1", "192.168.0.1", "8.8.8.8", "2001:db8::1", "fd00::1", "64:ff9b::a00:1"} {
		if err := guard.New().Check(netip.MustParseAddr(s)); err != nil {
			t.Errorf("without networks: %v", err)
		}
	}
}

func TestDialsTCPOnly(t *testing.T) {
	for _, network := range []string{"udp", "unix"} {
		address := "127.0.0.1:9"
		if network == "unix" {
			address = t.TempDir() + "/sock"
		}
		if _, err := guard.New().DialContext(t.Context(), network, address); !errors.Is(err, guard.ErrForbidden) {
			t.Errorf("%s: %v", network, err)
		}
	}
}
