package kv_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// asked notes what the bucket is asked for directly.
func (f *fixture) asked() (since func() []string) {
	f.t.Helper()
	var mu sync.Mutex
	var all []string
	if _, err := f.nc.Subscribe("$JS.API.DIRECT.GET.KV_proxima", func(msg *nats.Msg) {
		if strings.Contains(string(msg.Data), "$KV.proxima.evacuate.") {
			return // another matter
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, string(msg.Data))
	}); err != nil {
		f.t.Fatal(err)
	}
	return func() []string {
		f.flush()
		time.Sleep(time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		was := all
		all = nil
		return was
	}
}

func (f *fixture) snapshot(service string) []events.Snapshot {
	f.t.Helper()
	all, err := f.r.Snapshot(f.t.Context(), service)
	if err != nil {
		f.t.Fatal(err)
	}
	return all
}

// Going through the stream costs the server as much as there is in it, also
// the leases and all other services.
func TestASnapshotOfOneServiceDoesNotGoThroughTheStream(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(1000, 0)
		asked := f.asked()
		if s := f.snapshot("user"); len(s) != 1 || len(s[0].Entries) != 1000 {
			t.Fatalf("%d snapshots", len(s))
		}
		if s := f.snapshot("nobody"); len(s) != 0 {
			t.Fatalf("%d snapshots of a service that is not there", len(s))
		}
		got := asked()
		if len(got) != 2 || !strings.Contains(got[0], "multi_last") || !strings.Contains(got[1], "multi_last") {
			t.Errorf("asked for %q", got)
		}
	})
}

// A server tells no more than 1,024 last messages at once.
func TestAServiceThatIsTooLargeForThatIsReadInPages(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(1024, 0)
		asked := f.asked()
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(1024))
		if got := asked(); len(got) != 1 {
			t.Errorf("1024 are read by %q", got)
		}
		f.populate(5000, 0)
		v.until("listed", 10*time.Second, count(5000))
		asked()
		if s := f.snapshot("user"); len(s) != 1 || len(s[0].Entries) != 5000 {
			t.Fatalf("%d snapshots", len(s))
		}
		got := asked()
		if len(got) != 4 || !strings.Contains(got[0], "multi_last") || !strings.Contains(got[3], "next_by_subj") {
			t.Errorf("5000 are read by %q, want one try and three pages", got)
		}
		// A watch that knows how many there are does not try.
		time.Sleep(6 * time.Minute)
		for _, q := range asked() {
			if strings.Contains(q, "multi_last") {
				t.Errorf("read again by %s", q)
			}
		}
	})
}

// For each page the server counts what is left.
func TestEverythingIsReadInFewPages(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(20_000, 0)
		asked := f.asked()
		if s := f.snapshot(""); len(s) != 1 || len(s[0].Entries) != 20_000 {
			t.Fatalf("%d snapshots", len(s))
		}
		if got := asked(); len(got) > 4 {
			t.Errorf("20000 are read in %d pages", len(got))
		}
	})
}

// What a process asks the server for does not grow with the number of services
// that it watches.
func TestManyWatchesAreLookedAfterLessOften(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		defer work.Wait()
		defer cancel()
		for i := range 200 {
			work.Go(func() { _ = f.r.Watch(ctx, fmt.Sprint("service-", i), func(events.Snapshot) {}) })
		}
		time.Sleep(10 * time.Minute)
		asked := f.asked()
		time.Sleep(10 * time.Minute)
		// Checks every 200 s, and snapshots every 50 minutes.
		if n := len(asked()); n < 200 || n > 1200 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		// What changes is heard all the same.
		in := instance("a")
		in.Service = "service-7"
		v := watch(t, f.r, in.Service)
		f.register(in)
		time.Sleep(time.Second)
		if got := v.get(in.Service); len(got.Entries) != 1 {
			t.Errorf("listed: %s", show(got))
		}
	})
}

func TestAFreeKeyIsTakenWithoutALook(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		asked := f.asked()
		rev := f.register(instance("a"))
		registered(t, f.announce(f.r, instance("b"), kv.AnnounceOptions{}), time.Second)
		if got := asked(); len(got) != 0 {
			t.Errorf("asked for %q", got)
		}
		// One that was left has a mark, and is looked at.
		in := instance("a")
		if err := f.r.Deregister(t.Context(), &in, rev); err != nil {
			t.Fatal(err)
		}
		f.register(in)
		if got := asked(); len(got) != 1 {
			t.Errorf("asked for %q", got)
		}
		if s := f.snapshot("user"); len(s) != 1 || len(s[0].Entries) != 2 {
			t.Errorf("listed: %v", s)
		}
	})
}

// An overloaded server answers all callers late. If what is late
// were thrown away, and asked for again, it would never come to an end.
func TestAnAnswerCountsHoweverLateItIs(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		nc := natstest.Connect(t, ns)
		var asked atomic.Int32
		answer := func(reply string) {
			for i, id := range []string{"a", "b"} {
				data, err := events.Encode(instance(id))
				if err != nil {
					t.Error(err)
				}
				_ = nc.PublishMsg(&nats.Msg{Subject: reply, Data: data, Header: nats.Header{
					"Nats-Stream": {"KV_proxima"}, "Nats-Subject": {"$KV.proxima.inst.user.us-east-1.us-east-1a." + id},
					"Nats-Sequence": {strconv.Itoa(i + 1)}, "Nats-Time-Stamp": {"2026-11-21T08:00:00Z"}, "Nats-Last-Sequence": {strconv.Itoa(i)},
				}})
			}
			_ = nc.PublishMsg(&nats.Msg{Subject: reply, Header: nats.Header{"Status": {"204"}, "Nats-Num-Pending": {"0"}, "Nats-Last-Sequence": {"2"}}})
		}
		if _, err := nc.Subscribe("$JS.API.DIRECT.GET.KV_proxima", func(msg *nats.Msg) {
			if !strings.Contains(string(msg.Data), `"multi_last":["$KV.proxima.inst.user.`) {
				return
			}
			asked.Add(1)
			time.AfterFunc(40*time.Second, func() { answer(msg.Reply) })
		}); err != nil {
			t.Fatal(err)
		}
		r := open(t, natstest.Connect(t, ns), kv.Options{NoCreate: true})
		v := watch(t, r, "user")
		v.until("listed by the first answer", 41*time.Second, count(2))
		if n := asked.Load(); n > 5 {
			t.Errorf("asked %d times in 40 s", n)
		}
		time.Sleep(5 * time.Minute) // the answers to the other questions come, and mean nothing
		if c, s := r.Counts(), v.get("user"); c.Invalid != 0 || len(s.Entries) != 2 {
			t.Errorf("%+v, %s", c, show(s))
		}
	})
}
