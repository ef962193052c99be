package main

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestACommandIsMeasured(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	heard := r.beats(user1)
	// The busy process is a child of the command.
	p := start(t, nil, append(announce(r.url, deadAddress(t), "--check", "none", "--beat-interval", "300ms"), "--", "sh", "-c", `"$0" child burn 50; exit 5`, os.Args[0])...)
	p.ready()
	// It gets a small part of a processor when other tests run. How much a process
	// uses is tested in package load.
	b := heard.await("a process at work", func(b events.Beat) bool { return b.CPU > 0 && b.Memory > 0 })
	if in := r.await(user1, events.Up); b.Incarnation != in.Incarnation || in.Incarnation == "" {
		t.Errorf("a beat of incarnation %q, listed is %+v", b.Incarnation, in)
	}
	if b.InFlight != 0 || b.Queue != 0 {
		t.Errorf("calls without a connection: %+v", b)
	}
	p.Signal(syscall.SIGTERM)
	p.Exit()
	before := len(heard.get())
	time.Sleep(500 * time.Millisecond) // in which no beat may come
	if n := len(heard.get()); n != before {
		t.Errorf("%d beats after the end", n-before)
	}
}

func TestConnectionsToACommandAreItsCalls(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		child   string
		network string
		want    events.Beat
	}{
		{"serve", "127.0.0.1", events.Beat{InFlight: 3}},
		{"serve", "", events.Beat{InFlight: 3}}, // IPv6, where there is, for both
		{"polite", "127.0.0.1", events.Beat{Queue: 3}},
	} {
		t.Run(tt.child+" on "+tt.network, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			heard := r.beats(user1)
			backend := newPort(t)
			address := backend.addr
			_, port, _ := net.SplitHostPort(address)
			backend.release()
			p := start(t, nil, append(announce(r.url, address, "--check", "none", "--beat-interval", "100ms"), wrapped(tt.child, net.JoinHostPort(tt.network, port))...)...)
			p.ready()
			calls := func(b events.Beat) events.Beat { return events.Beat{InFlight: b.InFlight, Queue: b.Queue} }
			heard.await("no calls", func(b events.Beat) bool { return calls(b) == events.Beat{} })
			var conns []net.Conn
			for range 3 {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conns = append(conns, conn)
			}
			heard.await("three calls", func(b events.Beat) bool { return calls(b) == tt.want })
			if tt.want.Queue > 0 {
				return
			}
			conns[0].Close()
			heard.await("two calls", func(b events.Beat) bool { return b.InFlight == 2 })
		})
	}
}

func TestDrainingEndsWhenTheCallsHaveEnded(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	backend := newPort(t)
	address := backend.addr
	backend.release()
	p := start(t, nil, append(announce(r.url, address, "--drain", "10m"), wrapped("serve", address)...)...)
	r.await(user1, events.Up)
	p.registered()
	call, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer call.Close()
	p.Signal(syscall.SIGTERM)
	r.await(user1, events.Draining)
	time.Sleep(500 * time.Millisecond) // longer than without a call
	if in := r.find(user1); in == nil {
		t.Error("not listed any more, with a call in flight")
	}
	call.Close()
	r.awaitGone(user1)
}
