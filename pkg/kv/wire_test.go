package kv_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

// wire is a way to a server that can be cut, led to another server, and made
// to lose messages. It is an [nats.InProcessConnProvider].
type wire struct {
	mu    sync.Mutex
	ns    *server.Server // nil: cut
	ends  []net.Conn
	lose  func(subject string, msg []byte) bool // of what the server sends
	drops int
	deaf  bool   // nothing gets through, and neither side notices
	dead  bool   // cut for ever
	late  string // what the client sends with this in it comes last
	held  []byte // and waits here
}

func newWire(ns *server.Server) *wire { return &wire{ns: ns} }

// connect connects over the wire.
func (w *wire) connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	t.Cleanup(w.cut) // after the connection was closed
	return natstest.Connect(t, w.ns, append([]nats.Option{
		nats.InProcessServer(w), nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(0, 0),
		silent,
	}, opts...)...)
}

// InProcessConn implements [nats.InProcessConnProvider].
func (w *wire) InProcessConn() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ns == nil || w.deaf {
		return nil, errors.New("the wire is cut")
	}
	far, err := w.ns.InProcessConn()
	if err != nil {
		return nil, err
	}
	near, middle := net.Pipe()
	w.ends = append(w.ends, far, middle)
	go func() { // ends when either end is closed
		defer far.Close()
		defer middle.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := middle.Read(buf)
			if err != nil {
				return
			}
			if w.isDeaf() || w.holds(buf[:n]) {
				continue
			}
			if _, err := far.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	go func() { // ends when either end is closed
		defer far.Close()
		defer middle.Close()
		w.forward(middle, far)
	}()
	return near, nil
}

// holds keeps back what hold named.
func (w *wire) holds(sent []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late == "" || !bytes.Contains(sent, []byte(w.late)) {
		return false
	}
	w.held = append(w.held, sent...)
	return true
}

// hold makes what the client sends with that in it wait until deliver.
func (w *wire) hold(late string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = late
}

// deliver lets through what was held back, and says how much that was.
func (w *wire) deliver(t testing.TB) int {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.held)
	if _, err := w.ends[len(w.ends)-2].Write(w.held); err != nil {
		t.Error(err)
	}
	w.late, w.held = "", nil
	return n
}

func (w *wire) isDeaf() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaf
}

// forward passes on what the server sends, message by message.
func (w *wire) forward(client io.Writer, from io.Reader) {
	r := bufio.NewReader(from)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		fields := strings.Fields(string(line))
		lost := w.isDeaf()
		var body []byte
		if len(fields) > 2 && (fields[0] == "MSG" || fields[0] == "HMSG") {
			size, _ := strconv.Atoi(fields[len(fields)-1])
			body = make([]byte, size+2)
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			w.mu.Lock()
			if w.lose != nil && w.lose(fields[1], body) {
				lost = true
				w.drops++
			}
			w.mu.Unlock()
		}
		if lost {
			continue
		}
		if _, err := client.Write(append(line, body...)); err != nil {
			return
		}
	}
}

// cut closes all connections and refuses new ones.
func (w *wire) cut() { w.lead(nil) }

// kill cuts the wire for ever.
func (w *wire) kill() {
	w.mu.Lock()
	w.dead = true
	w.mu.Unlock()
	w.cut()
}

// lead closes all connections; new ones go to ns.
func (w *wire) lead(ns *server.Server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		ns = nil
	}
	w.ns, w.deaf = ns, false
	for _, c := range w.ends {
		c.Close()
	}
	w.ends = nil
}

// swallow makes the wire lose everything in both directions.
func (w *wire) swallow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.deaf = true
}

// losing loses what f says, until the next call.
func (w *wire) losing(f func(subject string, msg []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lose, w.drops = f, 0
}

func (w *wire) lost() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drops
}

// acks picks out the n-th acknowledgement of a write, and no other.
func acks(n int) func(string, []byte) bool {
	return func(_ string, msg []byte) bool {
		if !bytes.HasPrefix(msg, []byte(`{"stream":`)) || !bytes.Contains(msg, []byte(`"seq":`)) {
			return false
		}
		n--
		return n == 0
	}
}
