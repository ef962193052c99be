package tests

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// startNATS runs a NATS server as a process and returns its URL.
func startNATS(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	start(tb, "nats", strconv.Itoa(address.Port), tb.TempDir())
	url := "nats://" + address.String()
	for end := time.Now().Add(10 * time.Second); ; {
		nc, err := nats.Connect(url)
		if err == nil {
			nc.Close()
			return url
		}
		if time.Now().After(end) {
			tb.Fatalf("no NATS server at %s: %v", url, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
