package guard_test

import (
	"fmt"
	"net/netip"

	"github.com/proxima-discovery/proxima/internal/router/guard"
)

func ExampleGuard() {
	g := guard.New(netip.MustParsePrefix("10.0.0.0/8"))
	fmt.Println(g.Check(netip.MustParseAddr("10.0.0.5")))
	fmt.Println(g.Check(netip.MustParseAddr("192.168.0.5")))
	fmt.Println(g.Check(netip.MustParseAddr("::ffff:169.254.169.254")))
	// Output:
	// <nil>
	// router: address not allowed: 192.168.0.5 is in none of the allowed networks
	// router: address not allowed: 169.254.169.254 is never called
}
