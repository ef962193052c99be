package probe

import (
	"net"
	"sync/atomic"
	"time"
)

const (
	// connEvery is the least time between two samples of one connection, and how
	// recently the kernel must have measured.
	connEvery = time.Second
	// connSlack is how far above the least round trip of a connection, and a
	// quarter of it, an average may be that is still the network's.
	connSlack = 100 * time.Microsecond
)

// Conn is a TCP connection that calls use. Its round trips cost nothing: the kernel
// measures the time until sent data is acknowledged. It does so on Linux; on other
// systems there are no samples. Make one with [Observe].
//
// The kernel's measurement is not always the network's round trip: a peer that
// answers within 40 ms sends the acknowledgement along with the answer, and the
// average becomes the time of the call. The average therefore counts only while it
// is close to the least that the connection ever had. In the first second the least
// counts: it was measured as the connection was opened.
type Conn struct {
	*net.TCPConn

	opened time.Time
	next   atomic.Int64 // when the kernel is asked again, in nanoseconds after opened
	least  atomic.Int64 // in nanoseconds, 0 before the first sample
}

// Observe makes a [Conn] of a TCP connection that was just opened. Use it in its
// place. Other connections are returned unchanged.
func Observe(conn net.Conn) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &Conn{TCPConn: tcp, opened: time.Now()}
	}
	return conn
}

// Observed is the [Conn] that conn is, or that is below it if it is a [*tls.Conn] or has
// another method NetConn; else nil.
func Observed(conn net.Conn) *Conn {
	for {
		switch c := conn.(type) {
		case *Conn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// RTT is a round trip of the connection, if there is a new one: at most one in a
// second, and none of an idle connection. Call it when an answer has just arrived.
// Within a second of the last call it costs next to nothing. It is safe for
// concurrent use, and a nil c has none.
func (c *Conn) RTT() (time.Duration, bool) {
	if c == nil {
		return 0, false
	}
	age, next := time.Since(c.opened), c.next.Load()
	if int64(age) < next || !c.next.CompareAndSwap(next, int64(age+connEvery)) {
		return 0, false
	}
	average, least, ok := kernelRTT(c.TCPConn)
	if !ok {
		return 0, false
	}
	known := time.Duration(c.least.Load())
	if known != 0 {
		least = min(least, known)
	}
	c.least.Store(int64(least))
	switch {
	case average <= least+least/4+connSlack:
		return average, true
	case known == 0 && age < connEvery:
		return least, true
	default:
		return 0, false
	}
}
