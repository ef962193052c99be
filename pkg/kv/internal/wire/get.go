package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Get is a question for messages of a stream, which any copy of it answers: the
// last message of a subject, one page of the messages that match, or the last of
// each subject that matches, at once.
type Get struct {
	Seq     uint64 `json:"seq,omitempty"`
	NextFor string `json:"next_by_subj,omitempty"`
	LastFor string `json:"last_by_subj,omitempty"`
	Batch   int    `json:"batch,omitempty"`

	MultiLast []string `json:"multi_last,omitempty"`
}

var (
	// ErrUnreadable marks a message of the stream with headers that cannot be read.
	ErrUnreadable = fmt.Errorf("%w: the headers of a message cannot be read", ErrUnavailable)
	// ErrPageEnd marks the end of a page. Some messages may be left, see [Pending].
	ErrPageEnd = fmt.Errorf("%w: the page ends", ErrUnavailable)
	// ErrTooMany marks the answer to a question for more subjects than a server
	// answers at once.
	ErrTooMany = fmt.Errorf("%w: too many messages for one answer", ErrUnavailable)
)

// Answer reads one message of the answer to q: nil for a message of the stream, or
// [ErrUnreadable], [ErrPageEnd], [ErrNotFound], [ErrTooMany]. Anything else is an
// [ErrUnavailable] with which the answer ends. [NoServer] then reports whether no
// server keeps the stream.
func (q Get) Answer(msg *nats.Msg) error {
	switch code := msg.Header.Get(HdrStatus); {
	case Stored(msg):
		return nil
	case msg.Header == nil:
		return ErrUnreadable
	case code == "204":
		return ErrPageEnd
	case code == "404" && len(q.MultiLast) > 0 && msg.Header.Get(HdrDescription) == "Message Not Found":
		// One of several was replaced meanwhile, and the answer ends.
	case code == "404":
		return ErrNotFound
	case code == "413":
		return ErrTooMany
	case code == "503":
		return fmt.Errorf("%w: %w", ErrUnavailable, nats.ErrNoResponders)
	}
	return fmt.Errorf("%w: status %s %s", ErrUnavailable, msg.Header.Get(HdrStatus), msg.Header.Get(HdrDescription))
}

// Pending is how many messages are left after a page, as its end says.
func Pending(msg *nats.Msg) uint64 {
	n, _ := StampUint(msg.Header, HdrPending)
	return n
}

// Read asks a stream at direct, the subject of its direct gets, and calls each with
// every message of the answer. What is left after a page is asked for again, at
// most pages times in all. The error is [ErrUnavailable] or [ErrTooMany];
// messages may have come before it.
func (l *Link) Read(ctx context.Context, direct string, q Get, pages int, each func(*nats.Msg)) error {
	if err := l.Connected(); err != nil {
		return err
	}
	sub, err := l.Conn.SubscribeSync(l.Conn.NewInbox())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	for more := true; more && pages > 0; pages-- {
		if more, err = l.readPage(ctx, sub, direct, &q, each); err != nil {
			return err
		}
	}
	return nil
}

// readPage reads one page and moves q to the next.
func (l *Link) readPage(ctx context.Context, sub *nats.Subscription, direct string, q *Get, each func(*nats.Msg)) (more bool, err error) {
	req, err := json.Marshal(q)
	if err == nil {
		err = l.Conn.PublishRequest(direct, sub.Subject, req)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil { // nats.ErrNoResponders, too
			return false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		switch err := q.Answer(msg); {
		case err == nil:
			each(msg)
			seq, _ := StampUint(msg.Header, HdrSequence)
			q.Seq = max(q.Seq, seq+1)
		case errors.Is(err, ErrUnreadable):
			l.Invalid(msg.Subject, ErrFrame)
		case errors.Is(err, ErrPageEnd) && len(q.MultiLast) > 0 && Pending(msg) > 0:
			return false, ErrTooMany // bytes: the answer is cut off
		case errors.Is(err, ErrPageEnd):
			return Pending(msg) > 0 && q.NextFor != "", nil
		case errors.Is(err, ErrNotFound):
			return false, nil
		default:
			return false, err
		}
	}
}

// LastMsg returns the newest message on a subject of the stream. Any server that has
// a copy answers; NATS chooses one at random, and it may have just stopped. So the
// request is repeated, after an eighth and after a quarter of OpTimeout.
func (l *Link) LastMsg(ctx context.Context, subject string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, l.OpTimeout)
	defer cancel()
	if err := l.Connected(); err != nil {
		return nil, err
	}
	q := Get{LastFor: subject}
	req, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("kv: read %s: %w", subject, err)
	}
	var msg *nats.Msg
	for _, part := range []time.Duration{8, 4, 1} {
		once, end := context.WithTimeout(ctx, l.OpTimeout/part)
		msg, err = l.Conn.RequestWithContext(once, l.Direct, req)
		end()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrUnavailable, subject, l.Explain(l.Direct, err))
	}
	return msg, q.Answer(msg)
}
