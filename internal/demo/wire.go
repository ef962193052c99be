package demo

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// wire dials connections with a simulated delay: the handshake takes one round trip,
// and so does every answer.
type wire struct {
	// delay is the round trip to an address.
	delay func(address string) time.Duration
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	delay := w.delay(address)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil || delay == 0 {
		return conn, err
	}
	c := &slowConn{Conn: conn, delay: delay, arrived: make(chan packet, 1024), closed: make(chan struct{})}
	go c.pump() // ends when the connection is closed from either side
	return c, nil
}

// packet is the result of one read, and the time at which it is delivered.
type packet struct {
	data []byte
	err  error
	due  time.Time
}

// slowConn delivers what it reads one round trip later: the delay of both directions
// is put on the way back.
type slowConn struct {
	net.Conn
	delay   time.Duration
	arrived chan packet
	rest    packet
	once    sync.Once
	closed  chan struct{}
}

func (c *slowConn) pump() {
	for {
		buf := make([]byte, 16<<10)
		n, err := c.Conn.Read(buf)
		select {
		case c.arrived <- packet{buf[:n], err, time.Now().Add(c.delay)}:
		case <-c.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

func (c *slowConn) Read(p []byte) (int, error) {
	for len(c.rest.data) == 0 {
		if c.rest.err != nil {
			return 0, c.rest.err
		}
		select {
		case c.rest = <-c.arrived:
		case <-c.closed:
			return 0, net.ErrClosed
		}
		timer := time.NewTimer(time.Until(c.rest.due))
		select {
		case <-timer.C:
		case <-c.closed:
			timer.Stop()
			return 0, net.ErrClosed
		}
	}
	n := copy(p, c.rest.data)
	c.rest.data = c.rest.data[n:]
	return n, nil
}

func (c *slowConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// SetReadDeadline returns an error: delayed reads have no deadline. Close ends them.
func (c *slowConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetDeadline returns an error, as SetReadDeadline does.
func (c *slowConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

var _ io.ReadCloser = (*slowConn)(nil)
