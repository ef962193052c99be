package kv_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/proxima-discovery/proxima/pkg/events"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

var churn = func() int { n, _ := strconv.Atoi(os.Getenv("CHURN")); return n }()

func BenchmarkKVWatch(b *testing.B) {
	const n = 10000
	url, _ := process(b)
	nc := dial(b, url)
	r := open(b, nc, kv.Options{})
	fill(b, nc, n)
	js, _ := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	for round := range churn {
		for i := range n {
			in := instance(fmt.Sprintf("i%06d", i))
			if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "$KV.proxima." + in.Key().Lease(), Data: []byte("{}"), Header: nats.Header{"KV-Operation": {"PURGE"}}},
				jetstream.WithScheduleEvery(time.Hour), jetstream.WithScheduleTarget("$KV.proxima."+in.Key().Inst()), jetstream.WithScheduleTTL(time.Hour), jetstream.WithMsgTTL(time.Hour*2)); err != nil {
				b.Fatal(err)
			}
			if i%50 == 0 && round > 0 { // records move too
				k := (round*7919 + i) % n
				in := instance(fmt.Sprintf("i%06d", k))
				data, _ := events.Encode(in)
				_, _ = js.PublishMsgAsync(&nats.Msg{Subject: "$KV.proxima." + in.Key().Inst(), Data: data})
			}
		}
	}
	<-js.PublishAsyncComplete()
	bucket, err := js.KeyValue(b.Context(), "proxima")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("kvwatch", func(b *testing.B) {
		for b.Loop() {
			w, err := bucket.Watch(b.Context(), "inst.user.>")
			if err != nil {
				b.Fatal(err)
			}
			k := 0
			for e := range w.Updates() {
				if e == nil {
					break
				}
				k++
			}
			if k != n {
				b.Fatal(k)
			}
			w.Stop()
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		for b.Loop() {
			if s, err := r.Snapshot(b.Context(), "user"); err != nil || len(s[0].Entries) != n {
				b.Fatal(err)
			}
		}
	})
}
