package kv

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Answers of the stream, such as whoever guesses an inbox may send.
var answers = []string{
	"", "NATS/1.0\r\n\r\n", "NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\nNats-Last-Sequence: 7\r\n\r\n",
	"NATS/1.0 204 EOB\r\nNats-Num-Pending: 18446744073709551616\r\nNats-Last-Sequence: -1\r\n\r\n",
	"NATS/1.0 404 Message Not Found\r\n\r\n", "NATS/1.0 503\r\n\r\n", "NATS/1.0 408 Bad Request\r\nDescription: x\r\n\r\n",
	"NATS/1.0\r\nNats-Stream: KV_proxima\r\nNats-Subject: $KV.proxima.inst.user.r.z.a\r\nNats-Sequence: 7\r\nNats-Last-Sequence: 0\r\nNats-Time-Stamp: 2026-11-21T08:00:00Z\r\n\r\n",
	"NATS/1.0\r\nStatus: 204\r\nNats-Sequence: 18446744073709551615\r\nNats-Last-Sequence: 18446744073709551614\r\n\r\n",
}

// heard is a message as nats.go makes it of what comes over the wire.
func heard(header, data []byte) *nats.Msg {
	msg := &nats.Msg{Data: data}
	if len(header) > 0 {
		msg.Header, _ = nats.DecodeHeadersMsg(header) // nil when it cannot be read, as nats.go has it
	}
	return msg
}

// bareWatcher is one that is not connected.
func bareWatcher(t *testing.T) *watcher {
	r := bare()
	r.link.Conn, r.opts.NoCreate = new(nats.Conn), true
	w := &watcher{view: newView(r, "user"), reader: newReader(r, &r.link.Bucket, "user.>"), status: make(chan nats.Status)}
	w.from = &r.link.Bucket
	t.Cleanup(func() { w.due.Stop(); w.timeout.Stop() })
	return w
}

// FuzzAnswer gives a watcher any answers, to a check and to a read: its view must
// stay consistent, and it asks again.
func FuzzAnswer(f *testing.F) {
	for _, h := range answers {
		f.Add([]byte(h), []byte(body), []byte(answers[2]), byte(0))
		f.Add([]byte(h), []byte("{"), []byte(h), byte(7))
	}
	f.Add([]byte(nil), []byte(`{"message":{"seq":7}}`), []byte(nil), byte(0x70))
	f.Add([]byte(nil), []byte(`{"error":{"code":404,"err_code":10059}}`), []byte(answers[5]), byte(0x70))
	f.Fuzz(func(t *testing.T, first, data, second []byte, how byte) {
		w := bareWatcher(t)
		w.begin(how&1 == 0)
		for i, header := range [][]byte{first, second, first} {
			w.asked, w.round, w.about, w.cursor = 1, 1, page, 1
			if how>>(i+1)&1 == 1 {
				w.about, w.cursor = newest, 0
			}
			if how>>(i+4)&1 == 1 {
				w.about, w.cursor = truth, 0
			}
			msg := heard(header, data)
			msg.Subject = w.inbox + "1"
			w.answer(msg)
			w.touch("user")
			w.publish(func(s events.Snapshot) { consistent(t, w.view, s) })
			if w.about == page && w.asked == 0 && w.cursor == 0 && !w.ready {
				t.Fatalf("a read has ended and told nothing: %q", header)
			}
		}
	})
}

// FuzzHistory reads what reporters have left: none of it is from the future, or
// older than it is kept.
func FuzzHistory(f *testing.F) {
	for _, h := range answers {
		f.Add([]byte(h), []byte("x"))
	}
	f.Add([]byte("NATS/1.0\r\nNats-Subject: proxima.latency.r.z.user.x\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2099-01-01T00:00:00Z\r\n\r\n"), []byte("{}"))
	b := &Bus{bare()}
	f.Fuzz(func(t *testing.T, header, data []byte) {
		m, _, ok := b.parse(heard(header, data))
		if !ok {
			return
		}
		if strings.HasPrefix(m.subject, b.r.link.Live) && !strings.Contains(string(header), b.r.link.Live+b.r.link.Live) {
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
