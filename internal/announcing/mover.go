package announcing

import (
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Mover moves a connection to another server when something does not work by way
// of this one for a while: a server that is cut off from the others of its
// cluster holds its connections, and answers pings as ever. It is safe for
// concurrent use.
type Mover struct {
	conn *nats.Conn
	wait time.Duration
	log  *slog.Logger

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// NewMover makes a mover that waits that long, and up to half of it more: all
// others are in trouble too, and shall not move together.
func NewMover(conn *nats.Conn, wait time.Duration, log *slog.Logger) *Mover {
	return &Mover{conn: conn, wait: wait, log: log}
}

// Trouble says whether it works. While it does not the connection is moved after
// each wait, if there is another server.
func (m *Mover) Trouble(is bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case is && m.timer == nil:
		m.timer = time.AfterFunc(m.wait+rand.N(m.wait/2+1), m.move)
	case !is && m.timer != nil:
		m.timer.Stop()
		m.timer = nil
	}
}

func (m *Mover) move() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.timer == nil {
		return // it works again
	}
	m.timer.Reset(m.wait + rand.N(m.wait/2+1))
	if len(m.conn.Servers()) < 2 || !m.conn.IsConnected() {
		return
	}
	m.log.Warn("the registry does not answer by way of this server, trying another", "url", m.conn.ConnectedUrlRedacted())
	_ = m.conn.ForceReconnect() // fails only if the connection is closed
}
