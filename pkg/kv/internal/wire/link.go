package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrFenced says that the message to be replaced is another by now.
	ErrFenced = errors.New("kv: the record is gone or has been replaced")
	// ErrNotFound says that the stream has no such message.
	ErrNotFound = errors.New("kv: no such instance")
	// ErrUnavailable says that the registry does not answer.
	ErrUnavailable = errors.New("kv: the registry does not answer")
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
	OpTimeout time.Duration // of one exchange with the server
	Log       *slog.Logger
	Clock     *Clock
	Counts    Counts

	warned Throttle // of messages that are not valid
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
	// nats.go would keep the message and send it after a reconnect, when it
	// may no longer be true.
	if !l.Conn.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, l.OpTimeout)
	defer cancel()
	ack, err := l.JS.PublishMsg(ctx, msg, append(opts, jetstream.WithRetryAttempts(0))...)
	if err == nil {
		return ack, nil
	}
	if e, ok := errors.AsType[*jetstream.APIError](err); ok && (e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
		return nil, ErrFenced
	}
	if Transient(err) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil, err
}

// NoServer says that no server keeps the bucket now.
func NoServer(err error) bool {
	return errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}

// Transient says that trying again may help.
func Transient(err error) bool {
	if errors.Is(err, ErrNoJetStream) {
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
