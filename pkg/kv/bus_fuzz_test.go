package kv

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// FuzzHistory reads what reporters have left: none of it is from the future, or
// older than it is kept.
func FuzzHistory(f *testing.F) {
	f.Add([]byte("NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 7\r\n\r\n"), []byte("x"))
	f.Add([]byte("NATS/1.0\r\nNats-Subject: proxima.latency.r.z.user.x\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2099-01-01T00:00:00Z\r\n\r\n"), []byte("{}"))
	f.Add([]byte("NATS/1.0\r\nNats-Subject: proxima.\r\nNats-Time-Stamp: 0000-01-01T00:00:00Z\r\n\r\n"), []byte("0")) // 2026 years ago is no age
	b := &Bus{link: &wire.Link{Bucket: wire.NewBucket("proxima", "proxima", "$JS.API.")}}
	f.Fuzz(func(t *testing.T, header, data []byte) {
		msg := &nats.Msg{Data: data}
		if len(header) > 0 {
			msg.Header, _ = nats.DecodeHeadersMsg(header) // nil when it cannot be read, as nats.go has it
		}
		m, ok := b.parse(msg)
		if !ok {
			return
		}
		if strings.HasPrefix(m.subject, b.link.Live) && !strings.Contains(string(header), b.link.Live+b.link.Live) {
			t.Fatalf("subject %q", m.subject)
		}
		all := []kept{m, {at: time.Now()}, {at: time.Now().Add(-time.Hour)}}
		date(all, time.Now())
		for _, m := range all {
			if m.age < 0 || m.age > samplesAge {
				t.Fatalf("an age of %v", m.age)
			}
		}
	})
}
