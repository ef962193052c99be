package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
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

// Kind is what a message of an answer to a [Get] is.
type Kind int

// The kinds of answers.
const (
	Message    Kind = iota // a message of the stream
	Unreadable             // a message whose headers cannot be read
	PageEnd                // all of the page was sent; some may be left, see [Pending]
	Nothing                // there is no such message
	TooMany                // more subjects than a server answers at once
	NoBucket               // no server keeps the stream
	Refused                // anything else; the answer ends with it
)

// Answer reads one message of the answer to q.
func (q Get) Answer(msg *nats.Msg) Kind {
	switch code := msg.Header.Get(HdrStatus); {
	case Stored(msg):
		return Message
	case msg.Header == nil:
		return Unreadable
	case code == "204":
		return PageEnd
	case code == "404" && len(q.MultiLast) > 0 && msg.Header.Get(HdrDescription) == "Message Not Found":
		return Refused // one of several was replaced meanwhile, and the answer ends
	case code == "404":
		return Nothing
	case code == "413":
		return TooMany
	case code == "503":
		return NoBucket
	}
	return Refused
}

// Pending is how many messages are left after a page, as its end says.
func Pending(msg *nats.Msg) uint64 {
	n, _ := StampUint(msg.Header, HdrPending)
	return n
}

// Status is what a message that is none of the stream's says.
func Status(msg *nats.Msg) string {
	return strings.TrimSpace("status " + msg.Header.Get(HdrStatus) + " " + msg.Header.Get(HdrDescription))
}

// ErrTooMany is the error of [Link.Read] for more subjects than a server answers
// at once.
var ErrTooMany = errors.New("kv: too many messages for one answer")

// Read asks a stream at direct, the subject of its direct gets, and calls each with
// every message of the answer. What is left after a page is asked for again, at
// most pages times in all. The error is [ErrUnavailable] or [ErrTooMany];
// messages may have come before it.
func (l *Link) Read(ctx context.Context, direct string, q Get, pages int, each func(*nats.Msg)) error {
	if !l.Conn.IsConnected() {
		return fmt.Errorf("%w: not connected", ErrUnavailable)
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
		switch q.Answer(msg) {
		case Message:
			each(msg)
			seq, _ := StampUint(msg.Header, HdrSequence)
			q.Seq = max(q.Seq, seq+1)
		case Unreadable:
			l.Invalid(msg.Subject, ErrFrame)
		case PageEnd:
			return Pending(msg) > 0 && q.NextFor != "", nil
		case Nothing:
			return false, nil
		case TooMany:
			return false, ErrTooMany
		default:
			return false, fmt.Errorf("%w: %s", ErrUnavailable, Status(msg))
		}
	}
}

// LastMsg is the newest message on a subject of the stream, from whichever
// server has a copy. The servers choose one at random, also one that has just
// stopped to answer: so it is asked again, sooner than that one is given up.
func (l *Link) LastMsg(ctx context.Context, subject string) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, l.OpTimeout)
	defer cancel()
	if !l.Conn.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", ErrUnavailable)
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
		return nil, fmt.Errorf("%w: read %s: %w", ErrUnavailable, subject, err)
	}
	switch q.Answer(msg) {
	case Message:
		return msg, nil
	case Nothing:
		return nil, ErrNotFound
	}
	return nil, fmt.Errorf("%w: read %s: %s", ErrUnavailable, subject, Status(msg))
}
