package kv_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// incarnation is instance a as another process would announce it.
func incarnation(name, address string) events.Instance {
	in := instance("a")
	in.Incarnation = name
	in.Endpoints = map[string]string{events.HTTP: address}
	return in
}

func holds(name string) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool { return len(s.Entries) == 1 && s.Entries[0].Incarnation == name }
}

func TestSecondAnnouncerWithAnIDIsToldClearly(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		first := f.announce(f.r, incarnation("one", "10.0.0.1:80"), kv.AnnounceOptions{})
		registered(t, first, time.Second)
		v := watch(t, f.r, "user")
		second := f.announce(f.r, incarnation("two", "10.0.0.2:80"), kv.AnnounceOptions{})
		time.Sleep(time.Second)
		if s := second.State(); s.Registered() || s.Err == nil {
			t.Errorf("after a second: %+v", s)
		}
		testkit.Within(t, ttl15/2, "conflict", func() bool { return second.State().Phase == kv.Conflict })
		s := second.State()
		if !errors.Is(s.Err, kv.ErrConflict) || s.Registered() {
			t.Errorf("state %+v", s)
		}
		for _, want := range []string{"user.us-east-1.us-east-1a.a", "incarnation one", "10.0.0.1:80", "an id of its own"} {
			if !strings.Contains(s.Err.Error(), want) {
				t.Errorf("the error does not name %q: %v", want, s.Err)
			}
		}
		time.Sleep(5 * time.Minute)
		if first.State().Err != nil || second.State().Phase != kv.Conflict || !holds("one")(v.get("user")) {
			t.Errorf("five minutes later: %+v, %+v, %s", first.State(), second.State(), show(v.get("user")))
		}
		if err := second.Leave(t.Context()); err != nil {
			t.Errorf("leave: %v", err)
		}
		time.Sleep(time.Minute)
		if !holds("one")(v.get("user")) {
			t.Errorf("the second took the first with it: %s", show(v.get("user")))
		}
	})
}

func TestSecondAnnouncerTakesOverWhenTheFirstIsGone(t *testing.T) {
	for _, how := range []string{"it leaves", "it dies"} {
		t.Run(how, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				first := f.announce(r, incarnation("one", "10.0.0.1:80"), kv.AnnounceOptions{})
				registered(t, first, time.Second)
				v := watch(t, f.r, "user")
				second := f.announce(f.r, incarnation("two", "10.0.0.2:80"), kv.AnnounceOptions{})
				testkit.Within(t, ttl15, "conflict", func() bool { return second.State().Phase == kv.Conflict })
				if how == "it leaves" {
					if err := first.Leave(t.Context()); err != nil {
						t.Fatal(err)
					}
				} else {
					w.cut()
				}
				v.until("taken over", ttl15, holds("two"))
				registered(t, second, time.Second)
			})
		})
	}
}

func TestRestartWithTheSameIDTakesOver(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		first := f.announce(r, incarnation("one", "10.0.0.1:80"), kv.AnnounceOptions{})
		registered(t, first, time.Second)
		v := watch(t, f.r, "user")
		w.cut() // kill -9
		time.Sleep(time.Second)
		second := f.announce(f.r, incarnation("two", "10.0.0.1:80"), kv.AnnounceOptions{})
		v.until("taken over", ttl15*2/3, holds("two"))
		registered(t, second, time.Second)
		// The first was only out of reach after all.
		w.lead(f.ns)
		testkit.Within(t, 2*time.Second, "the first gives up", func() bool { return first.State().Phase == kv.Replaced })
		<-first.Done()
		if s := first.State(); !errors.Is(s.Err, kv.ErrConflict) || !strings.Contains(s.Err.Error(), "incarnation two") || s.Registered() {
			t.Errorf("the first: %+v", s)
		}
		rev := second.State().Revision
		if err := first.Leave(t.Context()); err != nil {
			t.Errorf("leave: %v", err)
		}
		if err := first.Update(func(in *events.Instance) { in.Weight = 1 }); err == nil {
			t.Error("update: no error")
		}
		time.Sleep(time.Minute)
		if s := second.State(); s.Err != nil || s.Revision != rev || !holds("two")(v.get("user")) {
			t.Errorf("the second: %+v, %s", s, show(v.get("user")))
		}
	})
}

// The lease of the life before ends while its successor waits to see whether it
// lives: the instance is listed again at once.
func TestRestartWhileTheOldLeaseEndsIsListedWithinASecond(t *testing.T) {
	for after := 6 * time.Second; after < 8*time.Second; after += 200 * time.Millisecond {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			w, _, r := f.remote(kv.Options{})
			in := incarnation("one", "10.0.0.1:80")
			first := f.announce(r, in, kv.AnnounceOptions{})
			registered(t, first, time.Second)
			time.Sleep(ttl15/3 - 2*time.Second)
			w.cut() // kill -9
			time.Sleep(after)
			changes := make(chan *nats.Msg, 16)
			if _, err := f.nc.ChanSubscribe(live+in.ID, changes); err != nil {
				t.Fatal(err)
			}
			second := f.announce(f.r, incarnation("two", "10.0.0.1:80"), kv.AnnounceOptions{})
			next := func(within time.Duration, what string) *nats.Msg {
				t.Helper()
				select {
				case msg := <-changes:
					return msg
				case <-time.After(within):
					t.Fatalf("after %v: not %s", within, what)
					return nil
				}
			}
			if msg := next(ttl15, "the lease's end"); msg.Header.Get("KV-Operation") != "PURGE" {
				t.Fatalf("heard %q", msg.Data)
			}
			if msg := next(time.Second, "listed again"); !strings.Contains(string(msg.Data), `"two"`) {
				t.Fatalf("heard %q", msg.Data)
			}
			registered(t, second, time.Second)
		})
	}
}

func TestPausedIncarnationNeverTouchesItsSuccessor(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var mu sync.Mutex
		pause := time.Duration(0)
		first := f.announce(f.r, incarnation("one", "10.0.0.1:80"), kv.AnnounceOptions{
			Drain: time.Second,
			OnState: func(kv.State) {
				mu.Lock()
				d := pause
				mu.Unlock()
				time.Sleep(d)
			},
		})
		registered(t, first, time.Second)
		v := watch(t, f.r, "user")
		mu.Lock()
		pause = time.Minute
		mu.Unlock()
		if err := first.Update(func(in *events.Instance) { in.Weight = 3 }); err != nil { // starts the pause
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		second := f.announce(f.r, incarnation("two", "10.0.0.2:80"), kv.AnnounceOptions{})
		registered(t, second, ttl15)
		mu.Lock()
		pause = 0
		mu.Unlock()
		n, rev := f.stream().State.LastSeq, second.State().Revision
		select {
		case <-first.Done():
		case <-time.After(2 * time.Minute):
			t.Fatalf("the first goes on: %+v", first.State())
		}
		time.Sleep(time.Minute)
		beats := f.stream().State.LastSeq - n
		if s := second.State(); s.Revision != rev || !holds("two")(v.get("user")) || beats > 2*60/4 {
			t.Errorf("the second: %+v, %s, %d messages", s, show(v.get("user")), beats)
		}
	})
}

func TestAnOutageTakesNoInstanceItsID(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		wires := make([]*wire, 2)
		both := make([]*kv.Announcement, 2)
		for i, name := range []string{"one", "two"} {
			var r *kv.Registry
			wires[i], _, r = f.remote(kv.Options{})
			both[i] = f.announce(r, incarnation(name, "10.0.0.1:80"), kv.AnnounceOptions{})
			time.Sleep(time.Second)
		}
		testkit.Within(t, ttl15, "conflict", func() bool { return both[1].State().Phase == kv.Conflict })
		for range 20 {
			for _, w := range wires {
				w.cut() // as when the server is away: no lease can be renewed
			}
			time.Sleep(7 * time.Second)
			for _, w := range wires {
				w.lead(f.ns)
			}
			time.Sleep(13 * time.Second)
			if !both[0].State().Registered() {
				t.Fatalf("the first: %+v", both[0].State())
			}
		}
		if s := both[1].State(); s.Phase != kv.Conflict {
			t.Errorf("the second: %+v", s)
		}
	})
}

func TestManyWithOneIDOneIsListed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		all := make([]*kv.Announcement, 8)
		for i := range all {
			all[i] = f.announce(f.r, incarnation("n"+string(rune('0'+i)), "10.0.0.1:80"), kv.AnnounceOptions{})
		}
		time.Sleep(time.Minute)
		listed := 0
		for _, a := range all {
			if a.State().Registered() {
				listed++
			} else if a.State().Phase != kv.Conflict {
				t.Errorf("%+v", a.State())
			}
		}
		if listed != 1 {
			t.Errorf("%d say they are listed", listed)
		}
	})
}

func TestSameIDElsewhereIsAnotherInstance(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		other := instance("a")
		other.Location.Zone = ""
		f.announce(f.r, other, kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("both", time.Second, count(2))
	})
}
