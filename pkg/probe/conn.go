package probe

import (
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"
)

const (
	// connEvery is the least time between two samples of one connection, and
	// how recent what the kernel knows must be.
	connEvery = time.Second
	// connSlack is how much more than the least round trip of a connection,
	// besides a quarter of it, may be the network's.
	connSlack = 100 * time.Microsecond
)

// Conn is a TCP connection that is used for calls, and gives samples for
// nothing: the kernel measures how long it takes until what was sent is
// acknowledged. It does so on Linux; elsewhere there are no samples. Make one
// with [Observe].
//
// What the kernel measures is not always the network's round trip: a peer that
// answers within 40 ms sends the acknowledgement along with the answer, so that
// the average becomes the time of the call. The average is therefore believed
// only while it is close to the least that the connection has ever had, or in
// the first second, when the least was measured as the connection was opened.
type Conn struct {
	*net.TCPConn

	opened time.Time
	next   atomic.Int64 // when the kernel may be asked again, nanoseconds after opened
	least  atomic.Int64 // nanoseconds, 0 until the kernel was asked
}

// Observe makes a [Conn] of a TCP connection that was just opened, to be used in
// its place. Other connections are returned as they are.
func Observe(conn net.Conn) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &Conn{TCPConn: tcp, opened: time.Now()}
	}
	return conn
}

// Observed is conn, or the connection below it if conn is a [*tls.Conn], if it
// came from [Observe]; else nil.
func Observed(conn net.Conn) *Conn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*Conn)
	return c
}

// RTT is a sample, for [Path.Observe], if there is one: at most one a second,
// and of no connection that was idle. Ask when an answer has just come. It does
// next to nothing when it was asked less than a second ago, may be called by
// many at once, and a nil c has no samples.
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
