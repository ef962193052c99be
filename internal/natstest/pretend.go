package natstest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"regexp"
	"sync"
	"testing"
)

// versionField is the version in what a server sends of itself.
var versionField = regexp.MustCompile(`"version":"[^"]*"`)

// Pretend returns the address of a proxy to a server, nats://host:port. The server says
// there that it is of another version.
func Pretend(tb testing.TB, target, version string) (url string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("natstest: proxy to %s: %v", target, err)
	}
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	pretend := func(client net.Conn) {
		defer client.Close()
		srv, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer srv.Close()
		mu.Lock()
		open = append(open, client, srv)
		mu.Unlock()
		r := bufio.NewReader(srv)
		var up sync.WaitGroup
		up.Go(func() {
			_, _ = io.Copy(srv, client) // ends with either end
			_ = srv.Close()
		})
		for err == nil { // a line at a time: what is not a line of the protocol ends with a newline too
			var line []byte
			line, err = r.ReadBytes('\n')
			if bytes.HasPrefix(line, []byte("INFO {")) {
				line = versionField.ReplaceAll(line, []byte(`"version":"`+version+`"`))
			}
			if _, failed := client.Write(line); failed != nil {
				err = failed
			}
		}
		_ = client.Close()
		up.Wait()
	}
	running.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				running.Go(func() { pretend(c) })
			}
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return "nats://" + l.Addr().String()
}
