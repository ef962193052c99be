package main

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy stands before a NATS server and can stop to pass anything on, as a
// network does that loses every packet.
type proxy struct {
	url    string
	frozen chan struct{} // closed: nothing passes any more
}

func newProxy(t testing.TB, url string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{"nats://" + l.Addr().String(), make(chan struct{})}
	ended := make(chan struct{})
	var passing sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer to.Close()
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			select {
			case <-p.frozen:
				<-ended
				return 0, io.ErrClosedPipe
			default:
				return to.Write(b)
			}
		}), from)
	}
	passing.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				in.Close()
				continue
			}
			passing.Go(func() { pass(out, in) })
			passing.Go(func() { pass(in, out) })
			go func() { // frees the copies when the test ends
				<-ended
				in.Close()
				out.Close()
			}()
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(ended)
		passing.Wait()
	})
	return p
}

func (p *proxy) freeze() { close(p.frozen) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
