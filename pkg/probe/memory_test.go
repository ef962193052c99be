package probe_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

var errRefused = errors.New("connection refused")

// memory is a network in memory with one server on it, for bubbles: what is
// sent arrives delay later, to the nanosecond. It is a [net.Listener].
type memory struct {
	delay time.Duration

	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
	work   sync.WaitGroup

	mu    sync.Mutex
	dials int
	open  map[*end]bool // of the client
}

func newMemory(t *testing.T, delay time.Duration) *memory {
	m := &memory{delay: delay, accept: make(chan net.Conn, 16), closed: make(chan struct{}), open: make(map[*end]bool)}
	t.Cleanup(func() {
		_ = m.Close()
		m.cut()
		m.work.Wait()
	})
	return m
}

// Dial takes a round trip.
func (m *memory) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	m.mu.Lock()
	m.dials++
	m.mu.Unlock()
	select {
	case <-time.After(2 * m.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-m.closed:
		return nil, errRefused
	default:
	}
	client, here := net.Pipe()
	server, there := net.Pipe()
	m.work.Go(func() { m.carry(here, there) })
	m.work.Go(func() { m.carry(there, here) })
	e := &end{Conn: client, there: there, network: m}
	m.mu.Lock()
	m.open[e] = true
	m.mu.Unlock()
	m.accept <- server
	return e, nil
}

// carry takes what one end sends to the other, delay later.
func (m *memory) carry(from, to net.Conn) {
	type parcel struct {
		data []byte
		due  time.Time
	}
	road := make(chan parcel, 1000)
	m.work.Go(func() {
		defer to.Close()
		for p := range road {
			time.Sleep(time.Until(p.due)) // in a bubble
			if _, err := to.Write(p.data); err != nil {
				break
			}
		}
		for range road { // the other end is gone: until this one is, too
		}
	})
	defer close(road)
	for {
		buf := make([]byte, 4096)
		n, err := from.Read(buf)
		if err != nil {
			_ = from.Close()
			return
		}
		road <- parcel{buf[:n], time.Now().Add(m.delay)}
	}
}

// dialled is how often the server was dialled, and kept how many connections
// the clients have not closed.
func (m *memory) dialled() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials
}

func (m *memory) kept() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.open)
}

// cut ends all connections.
func (m *memory) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for e := range m.open {
		_ = e.Conn.Close()
		_ = e.there.Close()
	}
	clear(m.open)
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.accept:
		return c, nil
	case <-m.closed:
		return nil, errors.New("the listener is closed")
	}
}

// Close makes the network refuse connections.
func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80} }

// end is the client's end of a connection.
type end struct {
	net.Conn
	there   net.Conn // the other end's
	network *memory
}

func (e *end) Close() error {
	e.network.mu.Lock()
	delete(e.network.open, e)
	e.network.mu.Unlock()
	_ = e.there.Close()
	return e.Conn.Close()
}
