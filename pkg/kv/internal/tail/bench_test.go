package tail

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// BenchmarkChange is a change of one instance among many, from the message to
// the snapshot.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			r := bare(b)
			t := &tail{group: r.group, from: r.from, view: r.view, reader: r, staleness: r.staleness}
			t.view.Begin(true)
			for i := range n {
				r.list(record(fmt.Sprint("i", i), uint64(i+1), "1"))
			}
			t.view.End(time.Now())
			seq := uint64(n)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				seq++
				msg := record(fmt.Sprint("i", n/2), seq, fmt.Sprint(seq))
				b.StartTimer()
				t.hear(msg)
				t.view.Publish(false, time.Time{}, func(s events.Snapshot) {
					if len(s.Entries) != n {
						b.Fatal(len(s.Entries))
					}
				})
			}
		})
	}
}

// record is a message of a stream whose clock ticks once a second per sequence.
func record(id string, seq uint64, incarnation string) *nats.Msg {
	return &nats.Msg{
		Subject: "proxima.inst.user.r.z." + id,
		Header: nats.Header{
			wire.HdrStream: {"KV_proxima"}, wire.HdrSubject: {"$KV.proxima.inst.user.r.z." + id},
			wire.HdrSequence: {strconv.FormatUint(seq, 10)}, wire.HdrLastSequence: {"0"},
			wire.HdrTimestamp: {time.Unix(1e9+int64(seq), 0).UTC().Format(time.RFC3339Nano)},
		},
		Data: []byte(`{"id":` + strconv.Quote(id) + `,"service":"user","incarnation":` + strconv.Quote(incarnation) + body[len(`{"id":"a","service":"user","incarnation":"x"`):]),
	}
}
