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

func TestAWatchWithoutChangesSendsFewRequests(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("a", time.Second, count(1))
		asked := f.listen("$JS.API.DIRECT.GET.KV_proxima")
		time.Sleep(time.Hour)
		if n := asked(); n > 3*3600/18+12*3 { // about instances, about the newest lease, and about evacuations
			t.Errorf("%d questions in an hour", n)
		}
		if c := f.r.Counts(); c.Snapshots < 10 || c.Snapshots > 15 || c.Gaps != 0 || c.Invalid != 0 || c.Forged != 0 {
			t.Errorf("in an hour: %+v", c)
		}
	})
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

func TestSnapshotOfTenThousandInstances(t *testing.T) {
	f := setupWith(t, kv.Options{Memory: true}) // in real time
	const n = 10_000
	f.populate(n, 0)
	began := time.Now()
	all, err := f.r.Snapshot(t.Context(), "user")
	if err != nil || len(all) != 1 || len(all[0].Entries) != n {
		t.Fatalf("%d services, %v", len(all), err)
	}
	took := time.Since(began)
	t.Logf("%d instances in %v", n, took)
	within(t, took, 0, 10*time.Second) // 0.1s on two idle cores without the race detector
}
