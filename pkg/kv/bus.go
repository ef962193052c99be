package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const (
	// samplesBytes is how much of all reporters is kept.
	samplesBytes = 256 << 20
	samplesPage  = 512 // messages asked for at a time
	maxHistory   = 4   // pages

	// More that waits to be heard is dropped: a flood must not cost memory, and
	// what is measured is told again in ten seconds.
	maxUnheard      = 1024
	maxUnheardBytes = 8 << 20
)

// Bus carries the messages of callers and instances about distances, on core NATS,
// so that no sender waits for a receiver. A stream in memory (PROXIMA_LATENCY for
// the bucket "proxima", Dev_latency for a name with a capital) keeps the last message
// of each subject for two minutes: a new subscriber receives those first. Without the
// stream, or the right to read it, only that is lost. Get one with [Registry.Bus]; it is
// safe for concurrent use and holds nothing that must be closed.
type Bus struct {
	link     *wire.Link
	noCreate bool
}

// Publish sends data to all subscribers. While NATS is away it is an error:
// nothing is sent later, when it may no longer be true.
func (b *Bus) Publish(subject string, data []byte) error {
	if err := b.link.Connected(); err != nil {
		return err
	}
	if err := b.link.Conn.Publish(b.link.Live+subject, data); err != nil {
		return fmt.Errorf("kv: publish %s: %w", subject, err)
	}
	return nil
}

// Request sends data to a subject and returns the first answer.
func (b *Bus) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if err := b.link.Connected(); err != nil {
		return nil, err
	}
	msg, err := b.link.Conn.RequestWithContext(ctx, b.link.Live+subject, data)
	if err != nil {
		return nil, fmt.Errorf("kv: ask %s: %w", subject, err)
	}
	return msg.Data, nil
}

// Subscribe calls handle with every message on a subject, which may have "*"
// as its last token, until stop is called. Before it returns, and while ctx
// lasts, handle gets the messages that the stream has kept, with their age.
// Calls come one at a time. The error is of the subscription; a stream that is
// missing is no error.
func (b *Bus) Subscribe(ctx context.Context, subject string, handle func(subject string, data []byte, age time.Duration)) (stop func(), err error) {
	var turn sync.Mutex // history goes first
	turn.Lock()
	defer turn.Unlock()
	sub, err := b.link.Conn.Subscribe(b.link.Live+subject, func(msg *nats.Msg) {
		turn.Lock()
		defer turn.Unlock()
		handle(strings.TrimPrefix(msg.Subject, b.link.Live), msg.Data, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("kv: subscribe %s: %w", subject, err)
	}
	_ = sub.SetPendingLimits(maxUnheard, maxUnheardBytes) // fails only if the connection is closed
	kept, err := b.history(ctx, subject)
	if err != nil {
		b.link.Log.Debug("cannot read the measurements that other callers have published", "subject", subject, "error", err)
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
	ctx, cancel := context.WithTimeout(ctx, b.link.OpTimeout)
	defer cancel()
	var all []kept
	direct := b.link.API + "DIRECT.GET." + b.stream()
	err := b.link.Read(ctx, direct, wire.Get{Seq: 1, NextFor: b.link.Live + subject, Batch: samplesPage}, maxHistory, func(msg *nats.Msg) {
		if m, ok := b.parse(msg); ok {
			all = append(all, m)
		}
	})
	if errors.Is(err, nats.ErrNoResponders) {
		err = b.ensure(ctx)
	}
	date(all, b.link.Clock.Now())
	return all, err
}

func (b *Bus) parse(msg *nats.Msg) (kept, bool) {
	subject, ok := strings.CutPrefix(wire.Stamp(msg.Header, wire.HdrSubject), b.link.Live)
	at, err := time.Parse(time.RFC3339Nano, wire.Stamp(msg.Header, wire.HdrTimestamp))
	return kept{subject: subject, data: msg.Data, at: at}, ok && err == nil
}

// date sets the ages of messages. Their differences are by the server's clock. The
// age of the newest is by now, our estimate of the server's clock, if it is
// possible: the estimate may be wrong.
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
		all[i].age = min(since+min(newest.Sub(all[i].at), samplesAge), samplesAge)
	}
}

// stream is the name of the stream. Buckets whose names differ in case only have one
// each.
func (b *Bus) stream() string {
	if name := b.link.Name; name != strings.ToLower(name) {
		return name + "_latency"
	}
	return strings.ToUpper(b.link.Name) + "_LATENCY"
}

// ensure makes the stream.
func (b *Bus) ensure(ctx context.Context) error {
	if b.noCreate {
		return fmt.Errorf("%w: there is no stream %s and this user does not create it", ErrUnavailable, b.stream())
	}
	if err := server.CheckConnected(b.link.Conn); err != nil {
		return err
	}
	config := jetstream.StreamConfig{
		Name:              b.stream(),
		Description:       "What Proxima's callers measured lately",
		Subjects:          []string{b.link.Live + "latency.>"},
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
	_, err := b.link.JS.CreateStream(ctx, config)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kv: make stream %s: %w", config.Name, err)
	}
	return nil
}
