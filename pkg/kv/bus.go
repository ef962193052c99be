package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	// samplesAge is how long the last message of a reporter is kept for those
	// who come later, and samplesBytes how much of all of them.
	samplesAge   = 2 * time.Minute
	samplesBytes = 256 << 20
	samplesPage  = 512 // messages asked for at a time
	maxHistory   = 4   // pages

	// More that waits to be heard is dropped: a flood must not cost memory, and
	// what is measured is told again in ten seconds.
	maxUnheard      = 1024
	maxUnheardBytes = 8 << 20
)

// Bus carries what callers and instances tell each other about distances, on
// core NATS, so that nobody waits for anybody. A stream in memory
// (PROXIMA_LATENCY for the bucket "proxima") keeps the last message of each
// subject for two minutes: whoever begins to listen hears that first. Without
// the stream, or the right to read it, only that is lost. Get one with
// [Registry.Bus]; it is safe for concurrent use and holds nothing.
type Bus struct{ r *Registry }

// Bus returns the bus of this registry. Its subjects begin with the bucket's
// name, which is not part of what is passed to its methods.
func (r *Registry) Bus() *Bus { return &Bus{r} }

// Publish sends data to whoever listens. While NATS is away it is an error:
// nothing is sent later, when it may no longer be true.
func (b *Bus) Publish(subject string, data []byte) error {
	if !b.r.link.Conn.IsConnected() {
		return fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	if err := b.r.link.Conn.Publish(b.r.link.Live+subject, data); err != nil {
		return fmt.Errorf("kv: publish %s: %w", subject, err)
	}
	return nil
}

// Request sends data to the one who answers on a subject.
func (b *Bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if !b.r.link.Conn.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	msg, err := b.r.link.Conn.RequestWithContext(ctx, b.r.link.Live+subject, data)
	if err != nil {
		return nil, fmt.Errorf("kv: ask %s: %w", subject, err)
	}
	return msg.Data, nil
}

// Subscribe calls handle with every message on a subject, which may have "*"
// as its last token, until stop is called. Before it returns, and while ctx
// lasts, handle gets the messages that the stream has kept, with their age.
// Calls come one at a time. The error is of the subscription; that there is no
// stream to read from is none.
func (b *Bus) Subscribe(ctx context.Context, subject string, handle func(subject string, data []byte, age time.Duration)) (stop func(), err error) {
	var turn sync.Mutex // history goes first
	turn.Lock()
	defer turn.Unlock()
	sub, err := b.r.link.Conn.Subscribe(b.r.link.Live+subject, func(msg *nats.Msg) {
		turn.Lock()
		defer turn.Unlock()
		handle(strings.TrimPrefix(msg.Subject, b.r.link.Live), msg.Data, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("kv: subscribe %s: %w", subject, err)
	}
	_ = sub.SetPendingLimits(maxUnheard, maxUnheardBytes) // fails only if the connection is closed
	kept, err := b.history(ctx, subject)
	if err != nil {
		b.r.link.Log.Debug("what others measured before is not known", "subject", subject, "error", err)
	}
	for _, m := range kept {
		handle(m.subject, m.data, m.age)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails only if the connection is closed
}

// kept is a message of the stream.
type kept struct {
	subject string
	data    []byte
	at      time.Time // on the server's clock
	age     time.Duration
}

// history reads what the stream keeps on a subject, and makes the stream if
// there is none.
func (b *Bus) history(ctx context.Context, subject string) ([]kept, error) {
	if !b.r.link.Conn.IsConnected() {
		return nil, fmt.Errorf("%w: not connected", ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, b.r.link.OpTimeout)
	defer cancel()
	var all []kept
	next, err := uint64(1), error(nil)
	for page := 0; page < maxHistory && next > 0 && err == nil; page++ {
		all, next, err = b.page(ctx, subject, next, all)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		err = b.ensure(ctx)
	}
	date(all, b.r.Now())
	return all, err
}

// page appends one page of messages from a sequence on, and returns the
// sequence of the next, 0 after the last.
func (b *Bus) page(ctx context.Context, subject string, from uint64, all []kept) ([]kept, uint64, error) {
	inbox := b.r.link.Conn.NewInbox()
	sub, err := b.r.link.Conn.SubscribeSync(inbox)
	if err != nil {
		return all, 0, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only if the connection is closed
	req, err := json.Marshal(wire.Get{Seq: from, NextFor: b.r.link.Live + subject, Batch: samplesPage})
	if err != nil {
		return all, 0, err
	}
	if err := b.r.link.Conn.PublishRequest(b.r.link.API+"DIRECT.GET."+b.stream(), inbox, req); err != nil {
		return all, 0, err
	}
	last := from
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return all, 0, err
		}
		switch code := msg.Header.Get(wire.HdrStatus); {
		case wire.Stored(msg):
			if m, seq, ok := b.parse(msg); ok {
				all = append(all, m)
				last = max(last, seq)
			}
		case msg.Header == nil:
			// Somebody wrote headers that cannot be read.
		case code == "204": // the end of the page
			if pending, _ := wire.StampUint(msg.Header, wire.HdrPending); pending > 0 {
				return all, last + 1, nil
			}
			return all, 0, nil
		case code == "404": // there is nothing
			return all, 0, nil
		case code == "503":
			return all, 0, nats.ErrNoResponders
		default:
			return all, 0, fmt.Errorf("kv: read samples: %s", wire.Status(msg))
		}
	}
}

func (b *Bus) parse(msg *nats.Msg) (m kept, seq uint64, ok bool) {
	subject, ok := strings.CutPrefix(wire.Stamp(msg.Header, wire.HdrSubject), b.r.link.Live)
	if !ok {
		return kept{}, 0, false
	}
	if seq, ok = wire.StampUint(msg.Header, wire.HdrSequence); !ok {
		return kept{}, 0, false
	}
	at, err := time.Parse(time.RFC3339Nano, wire.Stamp(msg.Header, wire.HdrTimestamp))
	return kept{subject: subject, data: msg.Data, at: at}, seq, err == nil
}

// date says how old the messages are now. The server's clock tells them apart;
// how long ago the newest came, ours, if that can be true: what we know of the
// server's may be nothing.
func date(all []kept, now time.Time) {
	var newest time.Time
	for _, m := range all {
		if m.at.After(newest) {
			newest = m.at
		}
	}
	since := now.Sub(newest)
	if since < 0 || since > samplesAge {
		since = 0
	}
	for i := range all {
		all[i].age = min(since+newest.Sub(all[i].at), samplesAge)
	}
}

func (b *Bus) stream() string { return strings.ToUpper(b.r.opts.Bucket) + "_LATENCY" }

// ensure makes the stream.
func (b *Bus) ensure(ctx context.Context) error {
	if b.r.opts.NoCreate {
		return fmt.Errorf("%w: there is no stream %s and this user does not create it", ErrUnavailable, b.stream())
	}
	config := jetstream.StreamConfig{
		Name:              b.stream(),
		Description:       "What Proxima's callers measured lately",
		Subjects:          []string{b.r.link.Live + "latency.>"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          1, // what is lost with a server is measured again within seconds
		MaxMsgsPerSubject: 1,
		MaxAge:            samplesAge,
		MaxBytes:          samplesBytes,
		MaxMsgSize:        64 << 10,
		Discard:           jetstream.DiscardOld,
		AllowDirect:       true,
		NoAck:             true,
	}
	_, err := b.r.link.JS.CreateStream(ctx, config)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kv: make stream %s: %w", config.Name, err)
	}
	return nil
}
