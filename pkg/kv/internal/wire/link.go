package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
)

var (
	// ErrFenced says that the message to be replaced is another by now.
	ErrFenced = errors.New("kv: the record is gone or has been replaced")
	// ErrNotFound says that the stream has no such message.
	ErrNotFound = errors.New("kv: no such instance")
	// ErrUnavailable says that the registry does not answer.
	ErrUnavailable = errors.New("kv: the registry does not answer")
	// ErrBusy says that another goroutine is looking for the bucket.
	ErrBusy = fmt.Errorf("%w: another goroutine is looking for its bucket", ErrUnavailable)
	// ErrDomain says that writes go to another JetStream domain than reads.
	ErrDomain = errors.New("kv: writes go to another JetStream domain")
	// ErrNoJetStream says that the server has no JetStream for this user.
	ErrNoJetStream = errors.New("kv: the NATS server has no JetStream for this user, start it with JetStream enabled (nats-server -js)")
)

// Link is the way to one registry: the connection, the names of its bucket, and
// what is counted and logged on the way. It is safe for concurrent use.
type Link struct {
	Bucket // of this region: all that is written goes here

	Conn      *nats.Conn
	JS        jetstream.JetStream
	API       string        // prefix of JetStream's subjects
	Domain    string        // that was asked for, "" for the server's
	OpTimeout time.Duration // of one exchange with the server
	Log       *slog.Logger
	Clock     *Clock
	Counts    Counts
	Writes    Trouble // of what is written to the bucket
	Reads     Trouble // of what is read from it

	warned Throttle  // of messages that are not valid
	closed sync.Once // it was logged that the connection is closed
}

// Counts are totals since the registry was opened.
type Counts struct{ Invalid, Forged, Gaps, Snapshots atomic.Uint64 }

// Invalid counts a message that is skipped, and logs one a minute.
func (l *Link) Invalid(subject string, err error) {
	n := &l.Counts.Invalid
	if errors.Is(err, ErrForged) {
		n = &l.Counts.Forged
	}
	n.Add(1)
	// A faulty writer must not fill the log.
	if l.warned.Allows(l.Clock) {
		l.Log.Warn("ignoring a message that is not valid; more of them are only counted for a minute", "subject", subject, "error", err)
	}
}

// Publish writes one message and waits for its acknowledgement.
func (l *Link) Publish(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ack, err := l.publish(ctx, msg, opts)
	switch {
	case err == nil:
		l.Writes.Over()
	case !errors.Is(err, ErrFenced) && !errors.Is(err, context.Canceled): // a store that takes no writes can still refuse one
		l.Writes.Note(err)
	}
	return ack, err
}

func (l *Link) publish(ctx context.Context, msg *nats.Msg, opts []jetstream.PublishOpt) (*jetstream.PubAck, error) {
	// nats.go would keep the message and send it after a reconnect, when it
	// may no longer be true.
	if err := l.Connected(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.OpTimeout)
	defer cancel()
	// The bucket may be in another domain than that of the server. Then the plain
	// subject belongs to the bucket of this name that is near, if there is one.
	if near := l.Conn.ConnectedDomain(); l.Domain != "" && near != "" && near != l.Domain {
		msg.Subject = l.API + msg.Subject
	}
	ack, err := l.JS.PublishMsg(ctx, msg, append(opts, jetstream.WithRetryAttempts(0))...)
	if err == nil {
		if l.Domain != "" && ack.Domain != l.Domain {
			return nil, fmt.Errorf("%w: domain %q was asked for, and %q has stored the message: connect to a server of domain %s, or correct the domain (--nats-domain)",
				ErrDomain, l.Domain, ack.Domain, l.Domain)
		}
		return ack, nil
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && (e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return nil, ErrFenced
	}
	if old := server.CheckConnected(l.Conn); old != nil {
		return nil, fmt.Errorf("%w: %w", old, err)
	}
	if Transient(err) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, l.Explain(msg.Subject, err))
	}
	return nil, err
}

// Connected returns why the link is not connected: [ErrUnavailable], and
// [nats.ErrConnectionClosed] if it never will be again.
func (l *Link) Connected() error {
	switch {
	case l.Conn.IsConnected():
		return nil
	case l.Conn.IsClosed():
		return fmt.Errorf("%w: %w", ErrUnavailable, l.closedError())
	}
	if err := l.Conn.LastError(); err != nil {
		return fmt.Errorf("%w: not connected to NATS at %s: %w", ErrUnavailable, l.servers(), err)
	}
	return fmt.Errorf("%w: not connected to NATS at %s", ErrUnavailable, l.servers())
}

// servers are the addresses that are tried, without credentials.
func (l *Link) servers() string { return strings.Join(l.Conn.Servers(), ", ") }

// closedError tells why nats.go has closed the connection for good, and what prevents it.
// The first time it is logged.
func (l *Link) closedError() error {
	err := nats.ErrConnectionClosed
	if last := l.Conn.LastError(); last != nil && !errors.Is(last, err) {
		err = fmt.Errorf("%w: %w", err, last)
	}
	advice := "the program closed it"
	if lacks := server.Ends(&l.Conn.Opts); len(lacks) > 0 {
		advice = "connect with kv.Connect, or set " + strings.Join(lacks, " and ")
	}
	l.closed.Do(func() {
		l.Log.Error("the connection to NATS is closed for good: nothing is announced or heard any more until the program makes a new one", "error", err, "advice", advice)
	})
	return fmt.Errorf("%w (%s)", err, advice)
}

// Explain adds to the error of a request without an answer what it means: that the server
// has refused it, which it says, yet not in an answer, or that there is no connection.
func (l *Link) Explain(subject string, err error) error {
	if errors.Is(err, nats.ErrReconnectBufExceeded) { // it keeps nothing until it is connected again
		return fmt.Errorf("not connected to NATS: %w", err)
	}
	last := l.Conn.LastError()
	if errors.Is(last, nats.ErrPermissionViolation) && strings.Contains(last.Error(), `"`+subject+`"`) {
		return fmt.Errorf("%w: %w", err, last)
	}
	return err
}

// NoServer says that no server keeps the bucket now.
func NoServer(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}

// Transient says that trying again may help.
func Transient(err error) bool {
	if errors.Is(err, ErrNoJetStream) || errors.Is(err, ErrDomain) || errors.Is(err, server.ErrTooOld) {
		return false
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok {
		return e.Code == 503 && e.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabled &&
			e.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		errors.Is(err, nats.ErrConnectionReconnecting) || errors.Is(err, nats.ErrReconnectBufExceeded) ||
		errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed)
}

// removal is how long a server may take to remove the files of a stream.
const removal = 200 * time.Millisecond

// FindStream looks for a stream. Seen says that the stream was there before: if it is
// missing now, it has just been deleted, and its server may still be removing its
// files. A stream of that name that is made meanwhile loses its own files and takes no
// message until the server is started again (nats-server 2.15.2, on disk). So
// FindStream looks once more, a moment later.
func (l *Link) FindStream(ctx context.Context, name string, seen bool) (jetstream.Stream, error) {
	s, err := l.JS.Stream(ctx, name)
	if !seen || !errors.Is(err, jetstream.ErrStreamNotFound) {
		return s, err
	}
	select {
	case <-time.After(removal):
		return l.JS.Stream(ctx, name)
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}
