package kv_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestDrainingEndsWhenNoCallsAreInFlight(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var calls atomic.Int32
		calls.Store(2)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: time.Minute, InFlight: func() int { return int(calls.Load()) }})
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, status(events.Up))
		began := time.Now()
		time.AfterFunc(40*time.Second, func() { calls.Store(0) })
		left := make(chan error, 1)
		go func() { left <- a.Leave(t.Context()) }()
		v.until("draining", 100*time.Millisecond, status(events.Draining))
		time.Sleep(30 * time.Second) // longer than the lease
		if s := a.State(); s.Phase != kv.Draining || !s.Registered() || !status(events.Draining)(v.get("user")) {
			t.Errorf("while draining: %+v, %s", s, show(v.get("user")))
		}
		if err := a.Update(func(in *events.Instance) { in.Weight = 1 }); err == nil {
			t.Error("update while leaving: no error")
		}
		if err := <-left; err != nil {
			t.Error(err)
		}
		within(t, time.Since(began), 40*time.Second, 40*time.Second+200*time.Millisecond)
	})
}

func TestDrainingLastsUntilCallersCouldHear(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: time.Minute, InFlight: func() int { return 0 }})
		registered(t, a, time.Second)
		began := time.Now()
		if err := a.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		within(t, time.Since(began), 250*time.Millisecond, 400*time.Millisecond)
	})
}

func TestDrainingSurvivesTheLossOfTheRecord(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: 20 * time.Minute})
		registered(t, a, time.Second)
		v := guard(t, f.r, 1)
		began := time.Now()
		left := make(chan error, 1)
		go func() { left <- a.Leave(t.Context()) }()
		v.until("draining", time.Second, status(events.Draining))
		time.Sleep(time.Minute)
		f.wipe()
		time.Sleep(ttl15)
		if e, err := f.r.Lookup(t.Context(), instanceKey("a")); err != nil || e.Status != events.Draining {
			t.Errorf("it is not announced again: %+v, %v", e.Instance, err)
		}
		v.allow(0)
		if err := <-left; err != nil {
			t.Error(err)
		}
		within(t, time.Since(began), 20*time.Minute, 20*time.Minute+time.Second)
		v.until("gone", time.Second, count(0))
	})
}

func instanceKey(id string) events.Key {
	in := instance(id)
	return in.Key()
}

func TestLeaveEndsDrainingWithItsContext(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: time.Hour})
		registered(t, a, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := a.Leave(ctx); err != nil {
			t.Error(err)
		}
		within(t, time.Since(began), 3*time.Second, 3100*time.Millisecond)
		if f.get(lease+"a") != nil {
			t.Error("the lease is left")
		}
	})
}

func TestLeaveMayBeCalledByManyAndAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var told phases
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{OnState: told.add, Drain: time.Second})
		registered(t, a, time.Second)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := a.Leave(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		<-a.Done()
		if err := a.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		want := []string{"registered up", "draining", "left"}
		if diff := cmp.Diff(want, told.get()); diff != "" {
			t.Error(diff)
		}
		if s := a.State(); s.Phase != kv.Left || s.Registered() || s.Err != nil || s.Revision != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestLeaveWithoutNATSTakesSeconds(t *testing.T) {
	for _, how := range []string{"cut", "black hole", "no JetStream answer"} {
		for _, drain := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("%s,drain=%v", how, drain), func(t *testing.T) {
				natstest.Bubble(t, func(t *testing.T) {
					f := setup(t)
					w, _, r := f.remote(kv.Options{})
					a := f.announce(r, instance("a"), kv.AnnounceOptions{Drain: drain})
					registered(t, a, time.Second)
					switch how {
					case "cut":
						w.cut()
					case "black hole":
						w.swallow()
					default:
						w.losing(func(string, []byte) bool { return true })
					}
					time.Sleep(time.Second)
					began := time.Now()
					if err := a.Leave(t.Context()); err == nil {
						t.Error("no error")
					}
					within(t, time.Since(began), 0, 6*time.Second)
				})
			})
		}
	}
}

func TestLeaveBeforeItIsListed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var h health
		h.ill.Store(1)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: h.check, Drain: time.Minute})
		b := f.announce(f.r, instance("b"), kv.AnnounceOptions{}) // at once
		began := time.Now()
		for _, x := range []*kv.Announcement{a, b} {
			if err := x.Leave(t.Context()); err != nil {
				t.Error(err)
			}
		}
		within(t, time.Since(began), 0, 100*time.Millisecond)
		if s := a.State(); s.Phase != kv.Left {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second)
		if all, err := f.r.Snapshot(t.Context(), ""); err != nil || len(all) != 0 {
			t.Errorf("%v is listed, %v", all, err)
		}
	})
}

// What an announcer reads may overtake what it has written: the server answers reads
// aside of the queue of writes.
func TestARecordThatComesAfterItsAnnouncerLeftIsRefused(t *testing.T) {
	for _, before := range []string{"nothing", "the mark of a removal"} {
		t.Run(before, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				if before != "nothing" {
					b := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
					registered(t, b, time.Second)
					if err := b.Leave(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				w.hold(`"incarnation"`) // in the record alone
				a := f.announce(r, instance("a"), kv.AnnounceOptions{})
				time.Sleep(10 * time.Millisecond)
				if err := a.Leave(t.Context()); err != nil {
					t.Error(err)
				}
				if w.deliver(t) == 0 {
					t.Fatal("the record was not on its way")
				}
				time.Sleep(time.Second)
				if all, err := f.r.Snapshot(t.Context(), ""); err != nil || len(all) != 0 {
					t.Errorf("%v is listed, %v", all, err)
				}
				if f.get(lease+"a") != nil {
					t.Error("the lease is left")
				}
			})
		})
	}
}

func TestSnapshotsTellWhyInstancesLeft(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		a := f.announce(f.r, instance("leaves"), kv.AnnounceOptions{})
		dies := instance("dies")
		dies.TTL = 5 * time.Second
		f.register(dies)
		for i := range 10 {
			f.announce(f.r, instance(fmt.Sprint("stays", i)), kv.AnnounceOptions{})
		}
		v.until("all", 2*time.Second, count(12))
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		v.until("one gone", time.Second, count(11))
		v.until("both gone", 10*time.Second, count(10))
		leaves, left := a.Instance(), v.get("user").Left
		if len(left) != 2 {
			t.Fatalf("%+v", left)
		}
		want := []events.Departure{
			{Key: leaves.Key(), Incarnation: leaves.Incarnation, Reason: events.ReasonDeregistered},
			{Key: dies.Key(), Reason: events.ReasonExpired},
		}
		for i, d := range left {
			if d.Key != want[i].Key || d.Reason != want[i].Reason || d.At.IsZero() || i == 0 && d.Incarnation != want[i].Incarnation {
				t.Errorf("got %+v, want %+v", d, want[i])
			}
		}
		// A watch that begins later does not know what was before it.
		snapshots, err := f.r.Snapshot(t.Context(), "user")
		if err != nil || len(snapshots) != 1 || len(snapshots[0].Left) != 0 {
			t.Errorf("%+v, %v", snapshots, err)
		}
	})
}

func TestAReleasedInstanceStaysListedUntilItsLeaseEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Drain: time.Minute})
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, status(events.Up))
		time.Sleep(4 * time.Second) // a part of its lease has passed
		began := time.Now()
		if err := a.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v: it does not drain", took)
		}
		if s := a.State(); s.Phase != kv.Left || !s.Released || s.Registered() {
			t.Errorf("%+v", s)
		}
		ttl := a.Instance().TTL
		time.Sleep(ttl - time.Since(began) - time.Second)
		if !status(events.Up)(v.get("user")) {
			t.Errorf("before its lease ends: %s", show(v.get("user")))
		}
		// The next announcer takes it over.
		b := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		testkit.Within(t, ttl, "the next one", func() bool { return b.State().Phase == kv.Registered })
		if !status(events.Up)(v.get("user")) {
			t.Errorf("after the turn: %s", show(v.get("user")))
		}
	})
}
