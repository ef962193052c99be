package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// departures hears why instances leave. A snapshot only says that they have;
// the message that removed them says why.
type departures struct {
	subs []*nats.Subscription

	mu      sync.Mutex // guards what follows
	reasons map[events.Key]Kind
	news    chan struct{} // closed and replaced with every reason
}

const (
	maxReasons = 10_000
	// reasonWait is how long a reason may come after the news: both are
	// messages on one connection.
	reasonWait = 200 * time.Millisecond
)

// bucketsOf are the buckets that a registry reads: its own, and the one of the
// other regions, if there are any.
func bucketsOf(registry Lister, bucket string) []string {
	if all, ok := registry.(interface{ Buckets() []string }); ok {
		return all.Buckets()
	}
	return []string{bucket}
}

// listen hears of one service, or of all.
func listen(nc *nats.Conn, buckets []string, service string) (*departures, error) {
	d := &departures{reasons: map[events.Key]Kind{}, news: make(chan struct{})}
	which := ">"
	if service != "" {
		which = service + ".>"
	}
	for _, bucket := range buckets {
		prefix := bucket + "."
		sub, err := nc.Subscribe(prefix+"inst."+which, func(msg *nats.Msg) { d.hear(prefix, msg) })
		if err != nil {
			d.close()
			return nil, fmt.Errorf("router: listen to changes: %w", err)
		}
		d.subs = append(d.subs, sub)
	}
	return d, nil
}

func (d *departures) close() {
	for _, sub := range d.subs {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
}

func (d *departures) hear(prefix string, msg *nats.Msg) {
	if msg.Header.Get("KV-Operation") == "" && msg.Header.Get("Nats-Marker-Reason") == "" {
		return // a record
	}
	key, err := events.ParseKey(strings.TrimPrefix(msg.Subject, prefix))
	if err != nil {
		return
	}
	kind := Expired
	var body struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(msg.Data, &body) == nil && body.Reason == events.ReasonDeregistered {
		kind = Deregistered
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reasons) >= maxReasons {
		clear(d.reasons) // nobody asked for them
	}
	d.reasons[key] = kind
	close(d.news)
	d.news = make(chan struct{})
}

// left is why the instance left, [Removed] when nobody said.
func (d *departures) left(ctx context.Context, key events.Key) Kind {
	late := time.NewTimer(reasonWait)
	defer late.Stop()
	for {
		d.mu.Lock()
		kind, ok := d.reasons[key]
		delete(d.reasons, key)
		news := d.news
		d.mu.Unlock()
		if ok {
			return kind
		}
		select {
		case <-news:
		case <-late.C:
			return Removed
		case <-ctx.Done():
			return Removed
		}
	}
}
