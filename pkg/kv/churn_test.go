package kv_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// churner changes what is listed.
type churner struct {
	f   *fixture
	rnd *rand.Rand
	ins []events.Instance
	rev []uint64 // 0: it is not listed
}

func (f *fixture) churner(seed uint64, n int) *churner {
	c := &churner{f: f, rnd: rand.New(rand.NewPCG(seed, 7)), ins: make([]events.Instance, n), rev: make([]uint64, n)}
	for i := range c.ins {
		c.ins[i] = instance(fmt.Sprintf("c%05d", i))
		c.ins[i].TTL = time.Hour
	}
	return c
}

// change lists, changes or removes one.
func (c *churner) change() {
	c.f.t.Helper()
	i := c.rnd.IntN(len(c.ins))
	in, rev := &c.ins[i], &c.rev[i]
	var err error
	if *rev != 0 && c.rnd.IntN(4) == 0 {
		err, *rev = c.f.r.Deregister(c.f.t.Context(), in, *rev), 0
	} else {
		in.Weight = 1 + c.rnd.IntN(9999)
		*rev, err = c.f.r.Register(c.f.t.Context(), *in, *rev)
	}
	if err != nil {
		c.f.t.Fatal(err)
	}
}

// run makes n changes, one each pause.
func (c *churner) run(n int, pause time.Duration) {
	for range n {
		c.change()
		time.Sleep(pause)
	}
}

// bucket is what the bucket lists of user, read in another way: revisions by id.
func (f *fixture) bucket() map[string]uint64 {
	f.t.Helper()
	store, err := f.js().KeyValue(f.t.Context(), "proxima")
	if err != nil {
		f.t.Fatal(err)
	}
	w, err := store.Watch(f.t.Context(), "inst.user.>", jetstream.IgnoreDeletes())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = w.Stop() }()
	all := map[string]uint64{}
	for e := range w.Updates() {
		if e == nil {
			break
		}
		in, err := events.Decode(e.Value())
		if err != nil {
			f.t.Fatal(err)
		}
		all[in.ID] = e.Revision()
	}
	return all
}

// agrees compares a view with the bucket, entry by entry.
func (f *fixture) agrees(v *viewer) {
	f.t.Helper()
	want, got := f.bucket(), v.get("user")
	if len(got.Entries) != len(want) || len(want) == 0 {
		f.t.Errorf("%d are known, %d are in the bucket", len(got.Entries), len(want))
	}
	for _, e := range got.Entries {
		if want[e.ID] != e.Revision || e.Suspect {
			f.t.Fatalf("%s is known at revision %d, suspect %v, the bucket has %d", e.ID, e.Revision, e.Suspect, want[e.ID])
		}
	}
}

func TestViewsUnderChurnAreTheBucketWhenItEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{Memory: true})
		f.populate(5000, 0)
		views := []*viewer{watch(t, f.r, "user"), watch(t, f.r, ""), watch(t, open(t, natstest.Connect(t, f.ns), kv.Options{}), "user")}
		for _, v := range views {
			v.until("listed", 10*time.Second, count(5000))
		}
		f.churner(1, 1000).run(1000, 2*time.Millisecond)
		time.Sleep(time.Second)
		for _, v := range views {
			f.agrees(v)
		}
	})
}

// Its consumer is blocked for so long that nats.go throws changes away.
func TestASlowCallerReadsAgainWhatItMissed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{Memory: true})
		c := f.churner(2, 500)
		c.run(500, 0)
		slow := open(t, natstest.Connect(t, f.ns, silent), kv.Options{})
		block := make(chan struct{})
		blocked := false
		v := watch(t, slow, "user")
		v.until("listed", time.Second, func(s events.Snapshot) bool { return len(s.Entries) > 100 })
		v.hook(func(events.Snapshot) {
			if !blocked {
				blocked = true
				<-block
			}
		})
		c.run(5000, 2*time.Millisecond)
		before := slow.Counts()
		close(block)
		c.run(50, 2*time.Millisecond)
		time.Sleep(time.Second)
		f.agrees(v)
		if now := slow.Counts(); now.Gaps == before.Gaps {
			t.Errorf("it missed nothing: %+v", now)
		}
	})
}

// A snapshot of a large service takes time to make and to take in, and there is
// no use in one for each of very many changes.
func TestManyChangesAreGivenOutTogether(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{Memory: true})
		c := f.churner(3, 50)
		c.run(50, 0)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, func(s events.Snapshot) bool { return len(s.Entries) > 10 })
		time.Sleep(time.Second)
		v.hook(func(events.Snapshot) { time.Sleep(3 * time.Millisecond) })

		// One alone is there at once.
		before := v.applied()
		c.change()
		time.Sleep(time.Millisecond)
		if v.applied() != before+1 {
			t.Error("a change alone had to wait")
		}
		before = v.applied()
		c.run(1000, time.Millisecond)
		time.Sleep(time.Second)
		if n := v.applied() - before; n < 5 || n > 40 {
			t.Errorf("1000 changes in a second were given out %d times", n)
		}
		f.agrees(v)
	})
}

// What instances have in common is kept once.
func TestInstancesShareMetadataThatIsTheSame(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for i, team := range []string{"a", "a", "b", "a", "a"} {
			in := instance(fmt.Sprint("i", i))
			in.Metadata = map[string]string{"team": team, "tier": "1"}
			f.register(in)
		}
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(5))
		maps := map[uintptr]bool{}
		for i, e := range v.get("user").Entries {
			if want := []string{"a", "a", "b", "a", "a"}[i]; e.Metadata["team"] != want || len(e.Metadata) != 2 {
				t.Errorf("%s has %v", e.ID, e.Metadata)
			}
			maps[reflect.ValueOf(e.Metadata).Pointer()] = true
		}
		if len(maps) != 3 {
			t.Errorf("%d maps, want one for each run of those that are alike", len(maps))
		}
	})
}

// hook is called with each snapshot from now on.
func (v *viewer) hook(check func(events.Snapshot)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.check = check
}

// BenchmarkChurn is what changes of a large service cost a watch of it.
func BenchmarkChurn(b *testing.B) {
	for _, n := range []int{100, 5000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			url, _ := process(b)
			nc := dial(b, url)
			_ = open(b, nc, kv.Options{Memory: true}) // makes the bucket
			fill(b, nc, n)
			v := watch(b, open(b, dial(b, url), kv.Options{}), "user")
			v.until("listed", time.Minute, count(n))
			js, err := jetstream.New(nc)
			if err != nil {
				b.Fatal(err)
			}
			in := v.get("user").Entries[n/2]
			rev := in.Revision
			before, given := processTime(b, os.Getpid()), v.applied()
			for i := 0; b.Loop(); i++ {
				now := *in.Instance
				now.Weight = 1 + i%9999
				data, err := events.Encode(now)
				if err != nil {
					b.Fatal(err)
				}
				ack, err := js.Publish(context.Background(), "$KV.proxima."+in.Key().Inst(), data)
				if err != nil {
					b.Fatal(err)
				}
				rev = ack.Sequence
			}
			v.until("the last", time.Minute, func(s events.Snapshot) bool { return s.Entries[n/2].Revision == rev })
			b.ReportMetric(float64((processTime(b, os.Getpid())-before).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(v.applied()-given)/float64(b.N), "snapshots/op")
		})
	}
}
