package demo

import (
	"context"
	"net"
	"time"
)

// dial opens a connection with the simulated delay of its address: the handshake
// takes one round trip, and so does every answer.
func (d *demo) dial(ctx context.Context, network, address string) (net.Conn, error) {
	delay := d.delay(address)
	if !wait(ctx, delay) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil || delay == 0 {
		return conn, err
	}
	return &slowConn{conn, delay}, nil
}

// slowConn delivers what it reads one round trip later: the delay of both directions
// is put on the way back. The answers of the demo are one packet each.
type slowConn struct {
	net.Conn
	delay time.Duration
}

func (c *slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(c.delay)
	return n, err
}
