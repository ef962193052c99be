package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// link follows the ups and downs of one connection and logs them.
type link struct {
	logger    *slog.Logger
	conn      atomic.Pointer[nats.Conn]
	connected chan struct{} // closed at the first connect
	refused   chan struct{} // closed when the server refuses us before that

	mu       sync.Mutex // guards what follows
	loud     bool       // failures are worth a warning
	err      error      // the last failure since the connection was lost
	reported time.Time  // when one was logged
	up, no   bool       // connected, refused are closed
}

func newLink(logger *slog.Logger) *link {
	return &link{logger: logger, connected: make(chan struct{}), refused: make(chan struct{})}
}

// complain makes failures warnings: nobody waits for this connection and
// reports them instead.
func (l *link) complain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loud = true
}

func (l *link) last() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *link) onConnect(nc *nats.Conn) {
	l.mu.Lock()
	if !l.up {
		l.up = true
		close(l.connected)
	}
	l.err, l.reported = nil, time.Time{}
	l.mu.Unlock()
	l.logger.Info("connected to NATS", "url", nc.ConnectedUrlRedacted())
}

// nextAttempt is asked for the pause after all servers were tried. Only here
// an attempt shows that got as far as a server and was refused.
func (l *link) nextAttempt(int) time.Duration {
	if nc := l.conn.Load(); nc != nil {
		if err := nc.LastError(); err != nil {
			l.failed(err)
		}
	}
	return reconnectWait + rand.N(reconnectJitter)
}

// failed hears of every failed attempt, several a second. It logs the first,
// and a reminder from time to time.
func (l *link) failed(err error) {
	l.mu.Lock()
	news := time.Since(l.reported) > remindAfter || isRefusal(err) && !isRefusal(l.err)
	if news {
		l.reported = time.Now()
	}
	l.err = err
	if isRefusal(err) && !l.up && !l.no {
		l.no = true
		close(l.refused)
	}
	level := slog.LevelDebug
	if l.loud {
		level = slog.LevelWarn
	}
	l.mu.Unlock()
	if news {
		l.logger.Log(context.Background(), level, "cannot reach NATS, retrying", "error", err)
	}
}

func (l *link) onDisconnect(nc *nats.Conn, err error) {
	if !nc.IsClosed() {
		l.logger.Warn("lost the connection to NATS", "error", err)
	}
}

func (l *link) onError(_ *nats.Conn, sub *nats.Subscription, err error) {
	if isRefusal(err) { // one of the attempts to come back
		l.failed(err)
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	l.logger.Warn("NATS reports an error", "subject", subject, "error", err)
}

// onClosed hears of it only when we have not closed the connection ourselves:
// nats.go does so when a server speaks no NATS.
func (l *link) onClosed(nc *nats.Conn) {
	l.logger.Error("the connection to NATS is closed for good", "error", nc.LastError())
}

// isRefusal tells a server that does not want us from one that is not there.
func isRefusal(err error) bool {
	for _, refusal := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		nats.ErrNkeysNotSupported, nats.ErrSecureConnWanted, nats.ErrSecureConnRequired,
	} {
		// What comes back to a connection may be the server's own words.
		if errors.Is(err, refusal) || err != nil && strings.EqualFold(err.Error(), refusal.Error()) {
			return true
		}
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return untrusted
}
