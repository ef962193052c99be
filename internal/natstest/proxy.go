package natstest

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is one way through a [Proxy].
type Direction int

// The ways. They are bits: Up|Down is both.
const (
	Up   Direction = 1 << iota // from the client to the target
	Down                       // and back
)

const (
	chunk  = 4 << 10  // bytes forwarded at a time
	flight = 256      // chunks under way at most, in one direction of a connection
	buffer = 64 << 10 // bytes that the system keeps for the proxy, at each end
)

// Proxy forwards TCP connections to a target and does to them what networks do.
// What it does now, it does to all connections, old and new. It is safe for
// concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	closed  bool
	cut     bool
	lost    Direction
	delay   time.Duration
	jitter  float64
	rate    int // bytes per second and direction, 0: as fast as it goes
	conns   map[*net.TCPConn]struct{}
}

// NewProxy listens on a free port of the loopback interface, until the test ends.
func NewProxy(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("natstest: proxy to %s: %v", target, err)
	}
	p := &Proxy{target: target, listener: l, changed: make(chan struct{}), conns: map[*net.TCPConn]struct{}{}}
	p.running.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL is Addr for clients of NATS.
func (p *Proxy) URL() string { return "nats://" + p.Addr() }

// Cut resets all connections, and every new one, until [Proxy.Heal].
func (p *Proxy) Cut() {
	p.change(func() {
		p.cut = true
		// All of them before the first is closed: its pump closes the other end.
		for c := range p.conns {
			_ = c.SetLinger(0) // fails only if it is closed
		}
		for c := range p.conns {
			_ = c.Close()
		}
	})
}

// Lose loses everything that travels in the directions, without a reset, until
// [Proxy.Heal]. As TCP repeats what was lost, connections that are still open
// then go on where they were. A connection that is made meanwhile gets nowhere.
func (p *Proxy) Lose(d Direction) { p.change(func() { p.lost = d }) }

// Heal undoes Cut and Lose.
func (p *Proxy) Heal() { p.change(func() { p.cut, p.lost = false, 0 }) }

// Delay holds everything back for d, in each direction.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

// Jitter makes delays longer or shorter at random, by up to a share of them.
func (p *Proxy) Jitter(share float64) { p.change(func() { p.jitter = share }) }

// Rate lets that many bytes per second through, in each direction of each
// connection; 0 is no limit. What fits in the system's buffers comes at once.
func (p *Proxy) Rate(bytesPerSecond int) { p.change(func() { p.rate = bytesPerSecond }) }

func (p *Proxy) change(what func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) close() {
	_ = p.listener.Close() // once, so it cannot fail
	p.Cut()
	p.change(func() { p.closed = true })
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // the client has gone
		}
		p.running.Go(func() { p.forward(c.(*net.TCPConn)) })
	}
}

// forward connects c with the target, until either end closes.
func (p *Proxy) forward(c *net.TCPConn) {
	if !p.add(c) {
		return
	}
	defer p.remove(c)
	// A handshake needs both ways.
	if !p.pass(Up) || !p.pass(Down) {
		return
	}
	t, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		reset(c)
		return
	}
	target := t.(*net.TCPConn)
	if !p.add(target) {
		return
	}
	defer p.remove(target)
	var both sync.WaitGroup
	both.Go(func() { p.pump(target, c, Up) })
	both.Go(func() { p.pump(c, target, Down) })
	both.Wait()
}

// add keeps a connection, to reset it later. While connections are being reset
// it resets this one and returns false.
func (p *Proxy) add(c *net.TCPConn) bool {
	_ = c.SetReadBuffer(buffer) // else the system's own size
	_ = c.SetWriteBuffer(buffer)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut || p.closed {
		reset(c)
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) remove(c *net.TCPConn) {
	_ = c.Close() // it may be closed
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// reset closes a connection without a goodbye.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only if it is closed
	_ = c.Close()
}

// piece is data that was read, and when it is to be written.
type piece struct {
	data []byte
	due  time.Time
}

// pump forwards in one direction. When that ends, so does the connection.
func (p *Proxy) pump(to, from *net.TCPConn, d Direction) {
	pieces := make(chan piece, flight)
	gone := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() { p.read(from, d, pieces, gone) })
	for x := range pieces {
		if !p.pass(d) {
			break
		}
		time.Sleep(time.Until(x.due))
		if _, err := to.Write(x.data); err != nil {
			break
		}
		if rate := p.limits().rate; rate > 0 {
			time.Sleep(time.Duration(len(x.data)) * time.Second / time.Duration(rate))
		}
	}
	close(gone)
	_ = to.Close() // ends the other direction, and the reader here
	_ = from.Close()
	reading.Wait()
}

// read reads while data may travel in the direction.
func (p *Proxy) read(from io.Reader, d Direction, pieces chan<- piece, gone <-chan struct{}) {
	defer close(pieces)
	for p.pass(d) {
		data := make([]byte, chunk)
		n, err := from.Read(data)
		if err != nil {
			return
		}
		select {
		case pieces <- piece{data[:n], time.Now().Add(p.limits().hold())}:
		case <-gone:
			return
		}
	}
}

// limits are what is done to data now.
type limits struct {
	rate   int
	delay  time.Duration
	jitter float64
}

// hold is for how long to hold back data that comes now.
func (l limits) hold() time.Duration {
	return time.Duration(float64(l.delay) * (1 + l.jitter*(2*rand.Float64()-1)))
}

func (p *Proxy) limits() limits {
	p.mu.Lock()
	defer p.mu.Unlock()
	return limits{p.rate, p.delay, p.jitter}
}

// pass waits until data may travel in the direction. It returns false when
// connections are being reset.
func (p *Proxy) pass(d Direction) bool {
	for {
		p.mu.Lock()
		over, lost, changed := p.cut || p.closed, p.lost&d != 0, p.changed
		p.mu.Unlock()
		if over || !lost {
			return !over
		}
		<-changed
	}
}
