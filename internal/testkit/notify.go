package testkit

import (
	"crypto/rand"
	"fmt"
	"net"
	"sync"
	"testing"
)

// NotifySocket is a socket as systemd has for messages of its services: path is for
// the variable NOTIFY_SOCKET, and what arrives is in heard, each message on lines of
// its own.
func NotifySocket(tb testing.TB) (path string, heard *Output) {
	tb.Helper()
	path = "@proxima-notify-" + rand.Text() // without a file: the path of one may be too long
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		tb.Fatal(err)
	}
	heard = new(Output)
	var reading sync.WaitGroup
	reading.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			fmt.Fprintf(heard, "%s\n", buffer[:n])
		}
	})
	tb.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return path, heard
}
