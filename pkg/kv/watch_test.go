package kv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestWatchEndsWithItsContextAndLeavesNothing(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		before := f.nc.NumSubscriptions()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.r.Watch(ctx, "user", func(events.Snapshot) {}) }()
		time.Sleep(time.Second)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("watch: %v", err)
		}
		if n := f.nc.NumSubscriptions(); n != before {
			t.Errorf("%d subscriptions are left", n-before)
		}
		synctest.Wait()
	})
}

func TestApplyIsCalledOneAtATimeWithCompleteSnapshots(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var inside atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		last := make(chan events.Snapshot, 1000)
		go func() {
			_ = f.r.Watch(ctx, "user", func(s events.Snapshot) {
				if inside.Add(1) != 1 {
					t.Error("apply is called twice at a time")
				}
				time.Sleep(50 * time.Millisecond) // changes go on meanwhile
				for i := range s.Entries[:max(0, len(s.Entries)-1)] {
					if s.Entries[i].ID >= s.Entries[i+1].ID {
						t.Errorf("not in order: %s", show(s))
					}
				}
				inside.Add(-1)
				last <- s
			})
		}()
		for i := range 200 {
			in := instance(fmt.Sprintf("i%03d", (i*37)%200))
			f.register(in)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		n := len(last)
		var s events.Snapshot
		for range n {
			s = <-last
		}
		if len(s.Entries) != 200 || n > 40 {
			t.Errorf("%d entries after %d calls", len(s.Entries), n)
		}
	})
}

func TestWatchOfAllServices(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		order := instance("o")
		order.Service = "order"
		f.register(order)
		v := watch(t, f.r, "")
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		v.until("user", time.Second, count(1))
		if s := v.get("order"); len(s.Entries) != 1 || s.Service != "order" {
			t.Errorf("order: %s", show(s))
		}
		n := v.applied()
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.until("user is empty", time.Second, count(0))
		if v.applied() != n+1 {
			t.Errorf("one change, %d calls", v.applied()-n)
		}
	})
}

func TestWatchHearsOnlyItsService(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		v.until("empty", time.Second, func(s events.Snapshot) bool { return s.Service == "user" })
		other := instance("x")
		for _, other.Service = range []string{"use", "user2", "users"} {
			f.register(other)
		}
		time.Sleep(time.Minute)
		if v.applied() != 1 || len(v.get("user").Entries) != 0 {
			t.Errorf("%d calls, %s", v.applied(), show(v.get("user")))
		}
	})
}

func TestUnchangedInstancesKeepTheirPointer(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.dying(0, 2)
		v := watch(t, f.r, "user")
		v.until("two", time.Second, count(2))
		before := v.get("user")
		f.register(instance("m"))
		v.until("three", time.Second, count(3))
		after := v.get("user")
		if before.Entries[0].Instance != after.Entries[0].Instance || before.Entries[1].Instance != after.Entries[1].Instance {
			t.Errorf("%s, then %s", show(before), show(after))
		}
	})
}

func TestSnapshot(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		all, err := f.r.Snapshot(t.Context(), "")
		if err != nil || len(all) != 0 {
			t.Errorf("of nothing: %v, %v", all, err)
		}
		for _, service := range []string{"user", "order", "cart"} {
			in := instance("a")
			in.Service = service
			f.register(in)
		}
		f.register(instance("b"))
		if all, err = f.r.Snapshot(t.Context(), ""); err != nil || len(all) != 3 {
			t.Fatalf("of all: %v, %v", all, err)
		}
		for i, want := range []string{"cart", "order", "user"} {
			if all[i].Service != want || all[i].Stale || len(all[i].Entries) != 1+i/2 {
				t.Errorf("%s: %s", want, show(all[i]))
			}
		}
		if one, err := f.r.Snapshot(t.Context(), "order"); err != nil || len(one) != 1 || one[0].Service != "order" {
			t.Errorf("of one: %v, %v", one, err)
		}
		if none, err := f.r.Snapshot(t.Context(), "nobody"); err != nil || len(none) != 0 {
			t.Errorf("of an unknown service: %v, %v", none, err)
		}
		f.ns.Shutdown()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if all, err = f.r.Snapshot(ctx, ""); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("without a server: %v, %v", all, err)
		}
	})
}

func TestWatchThatBeginsBeforeTheBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		reader := natstest.Connect(t, f.ns)
		r := open(t, reader, kv.Options{Bucket: "later", NoCreate: true})
		v := watch(t, r, "user")
		time.Sleep(time.Minute)
		if v.applied() != 0 {
			t.Errorf("there is no bucket, and %d snapshots", v.applied())
		}
		writer := open(t, f.nc, kv.Options{Bucket: "later"})
		f.announce(writer, instance("a"), kv.AnnounceOptions{})
		v.until("listed", 8*time.Second, count(1))
	})
}

// A change may be lost on the way while the connection holds, as between two
// servers of a cluster.
func TestLostChangeIsFound(t *testing.T) {
	for name, x := range map[string]struct {
		then  func(*fixture) // after the registration of b was lost
		limit time.Duration
	}{
		"when the same instance changes":    {func(f *fixture) { f.again("b") }, time.Second},
		"when nothing follows":              {func(*fixture) {}, 23 * time.Second},
		"when only others change":           {func(f *fixture) { f.register(instance("c")) }, 23 * time.Second},
		"when only others change, too late": {func(f *fixture) { time.Sleep(19 * time.Second); f.register(instance("c")) }, 23 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				v := watch(t, r, "user")
				f.register(longLived("a"))
				v.until("a", time.Second, count(1))
				w.losing(func(subject string, _ []byte) bool { return subject == live+"b" })
				f.register(longLived("b"))
				time.Sleep(time.Second)
				if w.lost() != 1 || len(v.get("user").Entries) != 1 {
					t.Fatalf("%d lost, %s", w.lost(), show(v.get("user")))
				}
				w.losing(nil)
				x.then(f)
				v.until("b", x.limit, func(s events.Snapshot) bool {
					for _, e := range s.Entries {
						if e.ID == "b" {
							return true
						}
					}
					return false
				})
				time.Sleep(time.Second)
				if g := r.Counts().Gaps; g == 0 {
					t.Error("no gap was counted")
				}
			})
		})
	}
}

func longLived(id string) events.Instance {
	in := instance(id)
	in.TTL = time.Hour
	return in
}

// again writes the record of id anew.
func (f *fixture) again(id string) {
	f.t.Helper()
	in := longLived(id)
	e, err := f.r.Lookup(f.t.Context(), in.Key())
	if err != nil {
		f.t.Fatal(err)
	}
	in.Version = "again"
	if _, err := f.r.Register(f.t.Context(), in, e.Revision); err != nil {
		f.t.Fatal(err)
	}
}

func TestLostPartOfASnapshotIsReadAgain(t *testing.T) {
	for _, lost := range []string{"a record", "the end of a page"} {
		t.Run(lost, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				f.dying(0, 50)
				w, _, r := f.remote(kv.Options{})
				n := 0
				w.losing(func(subject string, msg []byte) bool {
					if lost == "a record" {
						n++
						return n == 20
					}
					ended := string(msg[:min(12, len(msg))]) == "NATS/1.0 204"
					if ended {
						n++
					}
					return ended && n == 1
				})
				v := watch(t, r, "user")
				v.until("all", 5*time.Second, count(50))
				if w.lost() != 1 {
					t.Errorf("%d lost", w.lost())
				}
			})
		})
	}
}

// The view is the bucket's, whatever happens while it is read.
func TestSnapshotOfMovingRecords(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(4500, time.Hour) // several pages
		w, _, r := f.remote(kv.Options{})
		pages := 0
		w.losing(func(_ string, msg []byte) bool {
			if len(msg) > 12 && string(msg[:12]) == "NATS/1.0 204" {
				pages++
			}
			return false
		})
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("i%05d", (i*7)%4500)
				f.again(id)
				if i%20 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		}()
		v := watch(t, r, "user")
		v.until("all", 5*time.Second, count(4500))
		close(stop)
		<-stopped
		time.Sleep(time.Second)
		want, err := f.r.Snapshot(t.Context(), "user")
		if err != nil || !equal(v.get("user"), want[0]) {
			t.Errorf("the view differs, %v", err)
		}
		if pages < 3 {
			t.Errorf("it took %d pages", pages)
		}
	})
}

func TestSlowReaderCatchesUp(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		reader := natstest.Connect(t, f.ns, silent)
		r := open(t, reader, kv.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last atomic.Pointer[events.Snapshot]
		go func() {
			_ = r.Watch(ctx, "user", func(s events.Snapshot) {
				last.Store(&s)
				if len(s.Entries) > 0 {
					time.Sleep(5 * time.Second)
				}
			})
		}()
		time.Sleep(time.Second)
		js := f.js()
		// More than is kept for a reader that is busy: the records of a few
		// instances, written again and again, then each once more.
		for i := range 6000 {
			in := longLived(fmt.Sprintf("i%02d", i%20))
			in.Weight = 1 + i
			data, err := events.Encode(in)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := js.PublishMsgAsync(&nats.Msg{Subject: "$KV.proxima." + in.Key().Inst(), Data: data}); err != nil {
				t.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
		time.Sleep(time.Minute)
		s := last.Load()
		if len(s.Entries) != 20 {
			t.Fatalf("%d entries", len(s.Entries))
		}
		for _, e := range s.Entries {
			if e.Weight <= 5980 {
				t.Errorf("%s has weight %d", e.ID, e.Weight)
			}
		}
		if r.Counts().Gaps == 0 {
			t.Error("nothing was lost: the test is too small")
		}
	})
}

func TestQuietWatchAsksLittle(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("a", time.Second, count(1))
		asked := f.listen("$JS.API.DIRECT.GET.KV_proxima")
		time.Sleep(time.Hour)
		if n := asked(); n > 3600/18+12*3 {
			t.Errorf("%d questions in an hour", n)
		}
		if c := f.r.Counts(); c.Snapshots < 10 || c.Snapshots > 15 || c.Gaps != 0 || c.Invalid != 0 || c.Forged != 0 {
			t.Errorf("in an hour: %+v", c)
		}
	})
}

func TestStreamOfAnotherLifeWithHigherSequences(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.register(longLived("old"))
		f.register(longLived("same"))
		v := watch(t, f.r, "user")
		v.until("two", time.Second, count(2))
		config := f.stream().Config
		if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
			t.Fatal(err)
		}
		config.FirstSeq = 1000
		if _, err := f.js().CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		f.register(longLived("same"))
		f.register(longLived("new"))
		v.until("the old one is suspect", 2*time.Second, func(s events.Snapshot) bool {
			return of(1, 2)(s) && s.Entries[1].ID == "old" && s.Entries[1].Suspect
		})
	})
}

// equal says whether two snapshots list the same revisions.
func equal(a, b events.Snapshot) bool {
	if len(a.Entries) != len(b.Entries) {
		return false
	}
	for i := range a.Entries {
		if a.Entries[i].Key() != b.Entries[i].Key() || a.Entries[i].Revision != b.Entries[i].Revision {
			return false
		}
	}
	return true
}

func TestSnapshotsAreInTheOrderOfInstances(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		zones := []string{"a-b", "a", "", "a_b", "A", "a0"}
		for i := range 2 * len(zones) {
			in := instance(fmt.Sprintf("i-%d", i%2))
			in.Location.Zone = zones[i/2]
			f.announce(f.r, in, kv.AnnounceOptions{})
			v.until("one more", 5*time.Second, count(i+1))
			s := v.get("user")
			if !slices.IsSortedFunc(s.Entries, func(a, b events.Entry) int { return a.Compare(b.Instance) }) {
				t.Fatalf("not in order: %s", show(s))
			}
		}
		again, err := f.r.Snapshot(t.Context(), "user")
		if err != nil {
			t.Fatal(err)
		}
		for i, e := range again[0].Entries {
			if e.Key() != v.get("user").Entries[i].Key() {
				t.Fatalf("a snapshot has %s at %d, the watch %s", e.Key(), i, v.get("user").Entries[i].Key())
			}
		}
	})
}
