package tail

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/view"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

const body = `{"id":"a","service":"user","incarnation":"x","endpoints":{"http":"10.0.0.5:8080"},"location":{"region":"r","zone":"z"},"status":"up","weight":100,"ttl":"15s"}`

// Answers of the stream, and such as another client may send that guesses an inbox.
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

// bare is the reader of a view that is not connected.
func bare(t testing.TB) *reader {
	link := &wire.Link{Bucket: wire.NewBucket("proxima", "proxima", "$JS.API."), Conn: new(nats.Conn), Log: slog.New(slog.DiscardHandler), Clock: wire.NewClock()}
	g := &Group{Link: link}
	from := Source{Bucket: &link.Bucket, Service: "user"}
	v := view.New(view.Options{Service: "user", Notes: notes{g, from.Bucket}})
	r := newReader(g, from, v, &staleness{group: g, from: &from, view: v}, "user.>")
	t.Cleanup(r.close)
	return r
}

// FuzzAnswer gives a reader any answers, to a check and to a read: what it lists
// stays in order, and it asks again.
func FuzzAnswer(f *testing.F) {
	for _, h := range answers {
		f.Add([]byte(h), []byte(body), []byte(answers[2]), byte(0))
		f.Add([]byte(h), []byte("{"), []byte(h), byte(7))
	}
	f.Add([]byte(nil), []byte(`{"message":{"seq":7}}`), []byte(nil), byte(0x70))
	f.Add([]byte(nil), []byte(`{"error":{"code":404,"err_code":10059}}`), []byte(answers[5]), byte(0x70))
	f.Fuzz(func(t *testing.T, first, data, second []byte, how byte) {
		r := bare(t)
		r.view.Begin(how&1 == 0)
		for i, header := range [][]byte{first, second, first} {
			r.asked, r.round, r.about, r.cursor = 1, 1, page, 1
			if how>>(i+1)&1 == 1 {
				r.about, r.cursor = newest, 0
			}
			if how>>(i+4)&1 == 1 {
				r.about, r.cursor = leaderNewest, 0
			}
			msg := heard(header, data)
			msg.Subject = r.inbox + "1"
			r.answer(msg)
			r.view.TouchAll()
			r.view.Publish(false, time.Time{}, func(s events.Snapshot) {
				for i, e := range s.Entries {
					if e.Validate() != nil || i > 0 && s.Entries[i-1].Compare(e.Instance) >= 0 {
						t.Fatalf("entry %d of %+v", i, s.Entries)
					}
				}
			})
			if r.about == page && r.asked == 0 && r.cursor == 0 && !r.view.Ready() {
				t.Fatalf("a read has ended and told nothing: %q", header)
			}
		}
	})
}
