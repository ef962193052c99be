// Package guard decides which addresses a router may call.
package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/proxima-discovery/proxima/pkg/dialer"
)

// ErrForbidden is the error for an address that must not be called.
var ErrForbidden = errors.New("router: address not allowed")

// dialTimeout is how long an unreachable machine may delay a call. Nothing was
// sent then: the next instance gets the call.
const dialTimeout = 1500 * time.Millisecond

// Guard decides which addresses may be called. It checks the address to connect
// to after the name was resolved: a name cannot resolve to one address for the
// check and to another for the connection.
//
// Never allowed are link-local, multicast, broadcast and unspecified addresses and
// those of the metadata services of clouds, in any notation, also inside an IPv6
// address that a gateway translates. A Guard with prefixes allows only addresses
// within them.
type Guard struct{ allow []netip.Prefix }

// New returns a guard that allows addresses within the prefixes, or without
// prefixes all that are not forbidden anyway.
func New(allow ...netip.Prefix) *Guard {
	g := &Guard{allow: make([]netip.Prefix, 0, len(allow))}
	for _, p := range allow {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		g.allow = append(g.allow, p.Masked())
	}
	return g
}

// DialContext is [dialer.Dialer.DialContext] for allowed addresses. For others the
// error is [ErrForbidden].
func (g *Guard) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := dialer.Dialer{Timeout: dialTimeout, Control: g.control}
	return d.DialContext(ctx, network, address)
}

// control is called with the numeric address, just before the connection is made.
func (g *Guard) control(network, address string, _ syscall.RawConn) error {
	switch network {
	case "tcp4", "tcp6":
	default:
		return fmt.Errorf("%w: network %s", ErrForbidden, network)
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return g.Check(to.Addr())
}

// Check returns [ErrForbidden] if addr may not be called.
func (g *Guard) Check(addr netip.Addr) error {
	addr = addr.WithZone("").Unmap()
	if never(addr) || slices.ContainsFunc(embedded(addr), never) {
		return fmt.Errorf("%w: %s is never called", ErrForbidden, addr)
	}
	if len(g.allow) > 0 && !slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return fmt.Errorf("%w: %s is in none of the allowed networks", ErrForbidden, addr)
	}
	return nil
}

func never(a netip.Addr) bool {
	return a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		slices.ContainsFunc(refused[:], func(p netip.Prefix) bool { return p.Contains(a) })
}

var refused = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), // this host, for some kernels
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("fec0::/10"), // link-local's predecessor
	// Metadata services that are not link-local.
	netip.MustParsePrefix("fd00:ec2::/32"),      // Amazon
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle
}

// embedded returns the IPv4 addresses that a gateway may translate an IPv6 address
// to.
func embedded(a netip.Addr) []netip.Addr {
	if !a.Is6() || a.IsLoopback() { // ::1 is not 0.0.0.1
		return nil
	}
	var all []netip.Addr
	b := a.As16()
	for _, e := range translated {
		if e.prefix.Contains(a) {
			all = append(all, netip.AddrFrom4([4]byte{b[e.at[0]], b[e.at[1]], b[e.at[2]], b[e.at[3]]}))
		}
	}
	return all
}

// translated are prefixes of gateways, and at which bytes the IPv4 address is.
var translated = [...]struct {
	prefix netip.Prefix
	at     [4]int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), [4]int{12, 13, 14, 15}},    // NAT64
	{netip.MustParsePrefix("64:ff9b:1::/48"), [4]int{12, 13, 14, 15}},  // NAT64 of an operator,
	{netip.MustParsePrefix("64:ff9b:1::/48"), [4]int{6, 7, 9, 10}},     // in two layouts
	{netip.MustParsePrefix("2002::/16"), [4]int{2, 3, 4, 5}},           // 6to4
	{netip.MustParsePrefix("::ffff:0:0:0/96"), [4]int{12, 13, 14, 15}}, // SIIT
	{netip.MustParsePrefix("::/96"), [4]int{12, 13, 14, 15}},           // IPv4-compatible
}
