package announcing

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// mover moves a connection to another server while the registry does not answer
// by way of the present one. A server that is cut off from the rest of its cluster
// keeps its connections and answers pings. It is safe for concurrent use.
type mover struct {
	conn *nats.Conn
	wait func() time.Duration
	log  *slog.Logger

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// newMover returns a mover that waits as long as wait says, and at random up to half of
// it more: other announcers that lost the same server should not move with it.
func newMover(conn *nats.Conn, wait func() time.Duration, log *slog.Logger) *mover {
	return &mover{conn: conn, wait: wait, log: log}
}

// trouble sets whether the registry fails to answer. As long as it does, the
// connection is moved after each wait, if there is another server.
func (m *mover) trouble(is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case is && m.timer == nil:
		m.timer = time.AfterFunc(m.pause(), m.move)
	case !is && m.timer != nil:
		m.timer.Stop()
		m.timer = nil
	}
}

func (m *mover) pause() time.Duration {
	wait := m.wait()
	return wait + rand.N(wait/2+1)
}

func (m *mover) move() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer == nil {
		return // it works again
	}
	m.timer.Reset(m.pause())
	if len(m.conn.Servers()) < 2 || !m.conn.IsConnected() {
		return
	}
	m.log.Warn("the registry does not answer through this server, trying another", "url", m.conn.ConnectedUrlRedacted())
	_ = m.conn.ForceReconnect() // fails only if the connection is closed
}
