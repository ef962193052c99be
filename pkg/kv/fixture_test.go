package kv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// register registers an instance and does not renew its lease.
func (f *fixture) register(in events.Instance) uint64 {
	f.t.Helper()
	rev, err := f.r.Register(f.t.Context(), in, 0)
	if err != nil {
		f.t.Fatalf("register %s: %v", in.ID, err)
	}
	return rev
}

// populate lists n instances without renewals, faster than Register
// would, and returns when. With a ttl of 0 they have no leases.
func (f *fixture) populate(n int, ttl time.Duration) time.Time {
	f.t.Helper()
	began := time.Now()
	js, err := jetstream.New(f.nc, jetstream.WithPublishAsyncMaxPending(n))
	if err != nil {
		f.t.Fatal(err)
	}
	ins, acks := make([]events.Instance, n), make([]jetstream.PubAckFuture, n)
	for i := range n {
		ins[i] = instance(fmt.Sprintf("i%05d", i))
		if ttl > 0 {
			ins[i].TTL = ttl
		}
		data, err := events.Encode(ins[i])
		if err != nil {
			f.t.Fatal(err)
		}
		if acks[i], err = js.PublishMsgAsync(&nats.Msg{Subject: "$KV.proxima." + ins[i].Key().Inst(), Data: data}); err != nil {
			f.t.Fatal(err)
		}
	}
	for i, ack := range acks {
		if ttl == 0 {
			<-ack.Ok()
			continue
		}
		if err := f.r.Renew(f.t.Context(), &ins[i], (<-ack.Ok()).Sequence); err != nil {
			f.t.Fatal(err)
		}
	}
	return began
}

// purged says when the server wrote the mark of each instance.
func (f *fixture) purged() map[string]time.Time {
	f.t.Helper()
	at := map[string]time.Time{}
	sub, err := f.nc.SubscribeSync(f.nc.NewInbox())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	req := `{"seq":1,"next_by_subj":"$KV.proxima.inst.>","batch":1000000}`
	if err := f.nc.PublishRequest("$JS.API.DIRECT.GET.KV_proxima", sub.Subject, []byte(req)); err != nil {
		f.t.Fatal(err)
	}
	for {
		msg, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			f.t.Fatal(err)
		}
		if msg.Header.Get("Nats-Subject") == "" {
			return at
		}
		when, err := time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
		if err != nil {
			f.t.Fatal(err)
		}
		at[msg.Header.Get("Nats-Subject")] = when
	}
}

// listen counts messages on a subject.
func (f *fixture) listen(subject string) (heard func() int) {
	f.t.Helper()
	var mu sync.Mutex
	n := 0
	_, err := f.nc.Subscribe(subject, func(*nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		n++
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return func() int {
		f.flush()
		time.Sleep(time.Millisecond) // in a bubble
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// flush waits for an answer of the server. Flush and FlushTimeout of nats.go would leave a
// timer of the bubble in a pool, for tests that are in none.
func (f *fixture) flush() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Second)
	defer cancel()
	if err := f.nc.FlushWithContext(ctx); err != nil || f.nc.IsClosed() {
		f.t.Errorf("the connection has suffered: %v", err)
	}
}

func (f *fixture) js() jetstream.JetStream {
	f.t.Helper()
	js, err := jetstream.New(f.nc)
	if err != nil {
		f.t.Fatal(err)
	}
	return js
}

func (f *fixture) stream() *jetstream.StreamInfo {
	f.t.Helper()
	s, err := f.js().Stream(f.t.Context(), "KV_proxima")
	if err != nil {
		f.t.Fatal(err)
	}
	return s.CachedInfo()
}

// get is the newest message on a subject of the stream, nil if there is none.
func (f *fixture) get(subject string) *jetstream.RawStreamMsg {
	f.t.Helper()
	s, err := f.js().Stream(f.t.Context(), "KV_proxima")
	if err != nil {
		f.t.Fatal(err)
	}
	msg, err := s.GetLastMsgForSubject(f.t.Context(), subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return msg
}

func header(msg *jetstream.RawStreamMsg, name string) string {
	if msg == nil {
		return ""
	}
	return msg.Header.Get(name)
}

func sameDuration(s string, want time.Duration) bool {
	d, err := time.ParseDuration(s)
	return err == nil && d == want
}

func within(t testing.TB, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("after %v, want %v to %v", got, low, high)
	}
}
