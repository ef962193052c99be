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

// link logs the changes of one connection.
type link struct {
	logger    *slog.Logger
	conn      atomic.Pointer[nats.Conn]
	connected chan struct{} // closed at the first connect
	refused   chan struct{} // closed when the server refuses this client before that

	mu       sync.Mutex // guards what follows
	loud     bool       // failures are logged as warnings
	err      error      // the last failure since the connection was lost
	reported time.Time  // when a failure was last logged
	up, no   bool       // connected, refused are closed
}

func newLink(logger *slog.Logger) *link {
	return &link{logger: logger, connected: make(chan struct{}), refused: make(chan struct{})}
}

// warn makes failures warnings. Before that, the function that waits for the
// connection returns them.
func (l *link) warn() {
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

// nextAttempt returns the pause after all servers were tried. Of an attempt that a
// server has refused, nats.go reports the error nowhere else.
func (l *link) nextAttempt(int) time.Duration {
	if nc := l.conn.Load(); nc != nil {
		if err := nc.LastError(); err != nil {
			l.failed(err)
		}
	}
	return reconnectWait + rand.N(reconnectJitter)
}

// failed is called after every failed attempt, several times a second. It logs the
// first one, and then one every remindAfter.
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
	if isRefusal(err) { // of an attempt to reconnect
		l.failed(err)
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	l.logger.Warn("NATS reports an error", "subject", subject, "error", err)
}

// onClosed is called when nats.go has closed the connection: the server does not
// speak the protocol of NATS.
func (l *link) onClosed(nc *nats.Conn) {
	l.logger.Error("the connection to NATS is closed, there will be no retry", "error", nc.LastError())
}

// isRefusal reports whether a server has refused this client, rather than not
// answered.
func isRefusal(err error) bool {
	for _, refusal := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
		nats.ErrNkeysNotSupported, nats.ErrSecureConnWanted, nats.ErrSecureConnRequired,
	} {
		// After a reconnect the error may be the text of the server.
		if errors.Is(err, refusal) || err != nil && strings.EqualFold(err.Error(), refusal.Error()) {
			return true
		}
	}
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return untrusted
}
