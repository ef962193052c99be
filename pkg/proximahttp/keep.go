package proximahttp

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/proxima-discovery/proxima/pkg/dialer"
	"github.com/proxima-discovery/proxima/pkg/probe"
)

const (
	// dialTimeout is how long an unreachable machine may delay a request. Nothing was
	// sent then: the next instance gets it.
	dialTimeout = 1500 * time.Millisecond
	// idleTimeout is how long a connection is kept without a request. Servers and what
	// stands before them commonly close after 60 s or more, without a word about it.
	idleTimeout = 55 * time.Second
	// maxAge is how long a connection is used, give or take a fifth: so names are
	// resolved again, and load balancers before the instances see new connections.
	maxAge = 10 * time.Minute
	// keepMargin is by how much a connection is closed sooner than its server would.
	keepMargin = time.Second
)

// Dial is how connections are opened, as [net.Dialer.DialContext].
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Keep returns a Dial whose connections are those of [NewBase]: the selector learns
// distances from them ([probe.Observe]); they are closed when they are ten minutes old,
// between two requests; and one that is idle is closed before its server does, where the
// server says when ("Keep-Alive: timeout=5"). Both are for HTTP/1. Connections that are not
// TCP stay as they are.
func Keep(dial Dial) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return keep(conn, maxAge*4/5+rand.N(maxAge*2/5)), nil
	}
}

func newDial() Dial { return (&dialer.Dialer{Timeout: dialTimeout}).DialContext }

// keptConn is a connection that is used for one request after the other.
type keptConn struct {
	*probe.Conn
	until time.Time // it gets no request after that

	mu    sync.Mutex // guards what follows
	uses  int
	limit time.Duration // of being idle, by what its server says; 0: none
	timer *time.Timer   // closes it when it was idle for that long
}

func keep(conn net.Conn, age time.Duration) net.Conn {
	observed, ok := probe.Observe(conn).(*probe.Conn)
	if !ok {
		return conn
	}
	return &keptConn{Conn: observed, until: time.Now().Add(age)}
}

// NetConn is the connection below, for [probe.Observed].
func (c *keptConn) NetConn() net.Conn { return c.Conn }

// keptOf is the keptConn that conn is, or that is below it; else nil.
func keptOf(conn net.Conn) *keptConn {
	if u, ok := conn.(interface{ NetConn() net.Conn }); ok {
		if _, is := conn.(*keptConn); !is {
			conn = u.NetConn() // of a *tls.Conn
		}
	}
	c, _ := conn.(*keptConn)
	return c
}

// use notes that a request has the connection, and returns which one it is.
func (c *keptConn) use() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses++
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.uses
}

// answered takes in what the server says of the connection in its header Keep-Alive.
func (c *keptConn) answered(header string) {
	for part := range strings.SplitSeq(header, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if n, err := strconv.ParseUint(strings.Trim(value, `" `), 10, 31); err == nil && strings.EqualFold(strings.TrimSpace(name), "timeout") {
			told := time.Duration(n) * time.Second
			c.mu.Lock()
			c.limit = max(told-min(keepMargin, told/2), time.Millisecond)
			c.mu.Unlock()
		}
	}
}

// rest notes that the request's answer has been read. The connection is closed at once if
// it is old, or later if it stays idle for too long. When the next request has it already,
// that one does so. A request that gets it in the moment when it is closed has sent nothing
// yet, and net/http takes another connection.
func (c *keptConn) rest(uses int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.uses != uses:
	case time.Now().After(c.until):
		_ = c.Close() // the next request notices
	case c.limit > 0:
		c.timer = time.AfterFunc(c.limit, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.uses == uses {
				_ = c.Close()
			}
		})
	}
}
