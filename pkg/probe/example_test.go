package probe_test

import (
	"context"
	"fmt"
	"net"

	"github.com/proxima-discovery/proxima/pkg/probe"
)

// The time that opening a connection takes is one round trip.
func Example() {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer lis.Close()

	rtt, err := probe.Connect(nil, lis.Addr().String())(context.Background())
	fmt.Println(rtt > 0 && rtt < probe.MaxRTT, err)
	// Output: true <nil>
}
