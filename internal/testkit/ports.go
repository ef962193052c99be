package testkit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreePorts finds n free ports of the loopback interface, below those that
// the system hands out by itself. Until the test ends no other test gets one of
// them, nor does one of another package that runs at the same time.
func FreePorts(tb testing.TB, n int) []int {
	tb.Helper()
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries == 1000 {
			tb.Fatal("no free ports between 20000 and 30000")
		}
		port := 20000 + rand.IntN(10000)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		// No test uses UDP: to hold the UDP port is to reserve the number.
		mark, err := net.ListenPacket("udp", address)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			_ = mark.Close()
			continue
		}
		_ = l.Close()
		tb.Cleanup(func() { _ = mark.Close() })
		ports = append(ports, port)
	}
	return ports
}

// FreeAddress is an address with one of [FreePorts]: connections are refused
// there until the test listens.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf("127.0.0.1:%d", FreePorts(tb, 1)[0])
}
