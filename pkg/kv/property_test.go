package kv_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// Whatever happened, when it is over every view is the bucket, and the bucket
// is those that live.
func TestViewsAgreeWithTheBucketWhateverHappened(t *testing.T) {
	seeds := 3 // 500 were tried
	if testing.Short() {
		seeds = 1
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

// life is an announcement on a connection of its own.
type life struct {
	w *wire
	a *kv.Announcement
}

func chaos(t *testing.T, rnd *rand.Rand) {
	dir := t.TempDir()
	memory := rnd.IntN(2) == 0
	boot := func() *server.Server {
		return natstest.Start(t, func(o *server.Options) { o.StoreDir = dir })
	}
	f := &fixture{t: t, ns: boot()}
	var wires []*wire
	remote := func() (*wire, *kv.Registry) {
		w, _, r := f.remote(kv.Options{Memory: memory})
		wires = append(wires, w)
		return w, r
	}
	w, nc, r := f.remote(kv.Options{Memory: memory})
	f.nc, f.r, wires = nc, r, append(wires, w)
	watchers := []*wire{w}
	views := []*viewer{watch(t, r, "user")}
	for range 2 {
		w, r := remote()
		watchers, views = append(watchers, w), append(views, watch(t, r, ""))
	}

	alive := map[string]life{}
	pick := func() (string, bool) {
		ids := slices.Sorted(maps.Keys(alive))
		if len(ids) == 0 {
			return "", false
		}
		return ids[rnd.IntN(len(ids))], true
	}
	for step := range 60 {
		switch n := rnd.IntN(20); {
		case n < 7 && len(alive) < 15:
			w, r := remote()
			in := instance(fmt.Sprint("i", step))
			in.TTL = time.Duration(2+rnd.IntN(14)) * time.Second
			alive[in.ID] = life{w, f.announce(r, in, kv.AnnounceOptions{})}
		case n < 9:
			if id, ok := pick(); ok {
				go func(a *kv.Announcement) { _ = a.Leave(context.Background()) }(alive[id].a)
				delete(alive, id)
			}
		case n < 11:
			if id, ok := pick(); ok { // killed: its connection never comes back
				alive[id].w.kill()
				delete(alive, id)
			}
		case n < 13:
			if id, ok := pick(); ok {
				if err := alive[id].a.Update(func(in *events.Instance) { in.Weight = 1 + step }); err != nil {
					t.Error(err)
				}
			}
		case n == 13:
			_ = nc.PublishMsg(&nats.Msg{Subject: "$KV.proxima.x", Header: nats.Header{"Nats-Rollup": {"all"}}})
		case n == 14:
			_, _ = nc.Request("$JS.API.STREAM.DELETE.KV_proxima", nil, time.Second)
		case n == 15 && f.ns != nil:
			natstest.Stop(f.ns)
			for _, w := range wires {
				w.cut()
			}
			time.Sleep(time.Duration(rnd.IntN(20000)) * time.Millisecond)
			f.ns = boot()
			for _, w := range wires {
				w.lead(f.ns)
			}
		case n < 18:
			w := wires[rnd.IntN(len(wires))]
			w.cut()
			time.AfterFunc(time.Duration(rnd.IntN(20000))*time.Millisecond, func() { w.lead(f.ns) })
		default:
			w := watchers[rnd.IntN(len(watchers))]
			w.losing(func(string, []byte) bool { return true })
			time.AfterFunc(time.Duration(rnd.IntN(3000))*time.Millisecond, func() { w.losing(nil) })
		}
		time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
	}

	// Until the next snapshot at the latest, then until suspects are gone.
	time.Sleep(6*time.Minute + 11*time.Minute)
	all, err := f.r.Snapshot(t.Context(), "user")
	if err != nil {
		t.Fatal(err)
	}
	bucket := events.Snapshot{Service: "user"}
	if len(all) == 1 {
		bucket = all[0]
	}
	if !of(0, len(alive))(bucket) {
		t.Errorf("%d live, listed are %s", len(alive), show(bucket))
	}
	for _, e := range bucket.Entries {
		l, ok := alive[e.ID]
		if !ok || l.a.State().Revision != e.Revision || l.a.State().Err != nil || l.a.Instance().Weight != e.Weight {
			t.Errorf("%s is listed at %d with weight %d; its announcer: %v", e.ID, e.Revision, e.Weight, ok)
		}
	}
	for i, v := range views {
		if got := v.get("user"); !equal(got, bucket) || !of(0, len(alive))(got) || got.Stale {
			t.Errorf("view %d: %s, %+v", i, show(got), f.r.Counts())
		}
	}
}
