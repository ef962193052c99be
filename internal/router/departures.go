package router

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
	prefix string
	sub    *nats.Subscription

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

// listen hears of one service, or of all.
func listen(nc *nats.Conn, bucket, service string) (*departures, error) {
	d := &departures{prefix: bucket + ".", reasons: map[events.Key]Kind{}, news: make(chan struct{})}
	which := ">"
	if service != "" {
		which = service + ".>"
	}
	var err error
	if d.sub, err = nc.Subscribe(d.prefix+"inst."+which, d.hear); err != nil {
		return nil, fmt.Errorf("router: listen to changes: %w", err)
	}
	return d, nil
}

func (d *departures) close() { _ = d.sub.Unsubscribe() } // fails only if the connection is closed

func (d *departures) hear(msg *nats.Msg) {
	if msg.Header.Get("KV-Operation") == "" && msg.Header.Get("Nats-Marker-Reason") == "" {
		return // a record
	}
	key, err := events.ParseKey(strings.TrimPrefix(msg.Subject, d.prefix))
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
