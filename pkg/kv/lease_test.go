package kv_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

const (
	inst  = "$KV.proxima.inst.user.us-east-1.us-east-1a."
	lease = "$KV.proxima.lease.user.us-east-1.us-east-1a."
	live  = "proxima.inst.user.us-east-1.us-east-1a."
)

func TestDeadInstanceIsPurgedWhenItsLeaseEnds(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second} {
		t.Run(ttl.String(), func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				v := watch(t, f.r, "user")
				f.dying(0, 1)
				in := instance("dead")
				in.TTL = ttl
				f.register(in)
				v.until("listed", time.Second, count(2))
				began := time.Now()
				v.until("purged", time.Hour, count(1))
				within(t, time.Since(began), ttl-500*time.Millisecond, ttl+750*time.Millisecond)
			})
		})
	}
}

func TestTenThousandLeasesEndInTime(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{Memory: true})
		const n = 10_000
		began := f.populate(n, 30*time.Second)
		v := watch(t, f.r, "user")
		v.until("all listed", 10*time.Second, count(n))
		v.until("all suspect", time.Minute, func(s events.Snapshot) bool {
			return count(n)(s) && !slices.ContainsFunc(s.Entries, func(e events.Entry) bool { return !e.Suspect })
		})
		within(t, time.Since(began), 29500*time.Millisecond, 30750*time.Millisecond)
		for id, at := range f.purged() {
			within(t, at.Sub(began), 29500*time.Millisecond, 30750*time.Millisecond)
			if t.Failed() {
				t.Fatalf("instance %s", id)
			}
		}
	})
}

func TestHeartbeatsWakeNoWatcher(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		heard := f.listen("proxima.>")
		all := make([]*kv.Announcement, 20)
		for i := range all {
			all[i] = f.announce(f.r, instance(fmt.Sprintf("i%02d", i)), kv.AnnounceOptions{})
		}
		time.Sleep(2 * time.Second)
		if n := heard(); n != len(all) {
			t.Fatalf("%d announcements were heard as %d messages", len(all), n)
		}
		before := f.stream().State.LastSeq
		time.Sleep(4 * time.Minute) // less than it takes to write the records again
		if n := heard(); n != len(all) {
			t.Errorf("heartbeats were heard %d times", n-len(all))
		}
		if beats := f.stream().State.LastSeq - before; beats < 20*4*60/6 || beats > 20*4*60/4 {
			t.Errorf("%d heartbeats of 20 instances in 4 minutes, want one each 5s", beats)
		}
	})
}

func TestRecordAndLeaseLastAsDesigned(t *testing.T) {
	for _, x := range []struct{ ttl, record time.Duration }{
		{15 * time.Second, 10 * time.Minute},
		{5 * time.Minute, 50 * time.Minute},
	} {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			in := instance("a")
			in.TTL = x.ttl
			f.register(in)
			if got := header(f.get(inst+"a"), "Nats-TTL"); !sameDuration(got, x.record) {
				t.Errorf("ttl %v: the record lasts %s, want %v", x.ttl, got, x.record)
			}
			l := f.get(lease + "a")
			if got := header(l, "Nats-TTL"); !sameDuration(got, x.record+2*x.ttl) {
				t.Errorf("ttl %v: the lease lasts %s, want %v", x.ttl, got, x.record+2*x.ttl)
			}
			if every, target := header(l, "Nats-Schedule"), header(l, "Nats-Schedule-Target"); every != "@every "+x.ttl.String() || target != inst+"a" {
				t.Errorf("the lease fires %q at %q", every, target)
			}
		})
	}
}

func TestNothingOfADeadInstanceLastsForEver(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.register(instance("dead"))
		time.Sleep(20 * time.Minute)
		if msg := f.get(inst + "dead"); msg == nil || header(msg, "KV-Operation") != "PURGE" || string(msg.Data) != `{"reason":"expired"}` {
			t.Errorf("20 minutes later the mark is %+v", msg)
		}
		time.Sleep(2 * time.Hour)
		if n := f.stream().State.Msgs; n != 0 {
			t.Errorf("%d messages are left", n)
		}
	})
}

func TestRecordIsWrittenAgainBeforeItEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		heard := f.listen("proxima.inst.>")
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(1))
		first := v.get("user").Entries[0]
		time.Sleep(21 * time.Minute)
		if n := heard(); n < 1+3 || n > 1+4 {
			t.Errorf("written %d times in 21 minutes, want each 5", n)
		}
		now := v.get("user").Entries[0]
		if now.Instance != first.Instance {
			t.Error("the same record, written again, is another pointer")
		}
		if now.Revision == first.Revision || now.Revision != a.State().Revision {
			t.Errorf("revision %d, then %d; the announcer's is %d", first.Revision, now.Revision, a.State().Revision)
		}
	})
}

func TestDeregistrationIsOneMessageThatSaysWhy(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		registered(t, a, time.Second)
		heard := f.listen("proxima.inst.>")
		before := f.stream().State.LastSeq
		if err := a.Leave(t.Context()); err != nil {
			t.Fatalf("leave: %v", err)
		}
		if n := f.stream().State.LastSeq - before; n != 1 || heard() != 1 {
			t.Errorf("it took %d messages, heard as %d", n, heard())
		}
		mark := f.get(inst + "a")
		if string(mark.Data) != `{"reason":"deregistered"}` || header(mark, "KV-Operation") != "PURGE" || !sameDuration(header(mark, "Nats-TTL"), time.Hour) {
			t.Errorf("the mark is %+v %s", mark.Header, mark.Data)
		}
		if l := f.get(lease + "a"); l != nil {
			t.Errorf("the lease is left: %+v", l.Header)
		}
		time.Sleep(time.Minute)
		if heard() != 1 {
			t.Error("the lease fired after all")
		}
	})
}

func TestCrashBetweenLeaseAndRecordLeavesNothingThatLasts(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		in := instance("a")
		if err := f.r.Renew(t.Context(), &in, 0); err != nil { // what Register does first
			t.Fatal(err)
		}
		v := watch(t, f.r, "user")
		time.Sleep(time.Minute)
		if n := len(v.get("user").Entries); n != 0 {
			t.Errorf("%d instances are listed", n)
		}
		time.Sleep(3 * time.Hour)
		if n := f.stream().State.Msgs; n != 0 {
			t.Errorf("%d messages are left", n)
		}
	})
}

func TestVerbsAreFenced(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		ctx := t.Context()
		in := instance("a")
		in.Incarnation = "one"
		if _, err := f.r.Lookup(ctx, in.Key()); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("lookup before: %v", err)
		}
		rev := f.register(in)
		if e, err := f.r.Lookup(ctx, in.Key()); err != nil || e.Revision != rev || e.Incarnation != "one" {
			t.Errorf("lookup: %+v, %v", e, err)
		}
		if _, err := f.r.Register(ctx, in, 0); !errors.Is(err, kv.ErrFenced) {
			t.Errorf("register a key that is not free: %v", err)
		}
		if _, err := f.r.Register(ctx, in, rev+7); !errors.Is(err, kv.ErrFenced) {
			t.Errorf("register over another revision: %v", err)
		}
		if err := f.r.Renew(ctx, &in, rev); err != nil {
			t.Errorf("renew: %v", err)
		}
		next, err := f.r.Register(ctx, in, rev)
		if err != nil || next <= rev {
			t.Errorf("register over the right revision: %d, %v", next, err)
		}
		if err := f.r.Renew(ctx, &in, rev); !errors.Is(err, kv.ErrFenced) {
			t.Errorf("renew an old revision: %v", err)
		}
		if err := f.r.Deregister(ctx, &in, rev); !errors.Is(err, kv.ErrFenced) {
			t.Errorf("deregister an old revision: %v", err)
		}
		if err := f.r.Deregister(ctx, &in, next); err != nil {
			t.Errorf("deregister: %v", err)
		}
		if err := f.r.Renew(ctx, &in, next); !errors.Is(err, kv.ErrFenced) {
			t.Errorf("renew what has left: %v", err)
		}
		if _, err := f.r.Register(ctx, in, 0); err != nil {
			t.Errorf("register over the mark of a removal: %v", err)
		}
	})
}

func TestNamesAreCheckedBeforeNATSSeesThem(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for _, change := range []func(*events.Instance){
			func(in *events.Instance) { in.Service = "us..er" },
			func(in *events.Instance) { in.Service = ">" },
			func(in *events.Instance) { in.ID = "a b" },
			func(in *events.Instance) { in.ID = strings.Repeat("x", 4096) },
			func(in *events.Instance) { in.Location.Zone = "*" },
			func(in *events.Instance) { in.Location.Region = "a\r\nPUB x 0\r\n" },
		} {
			in := instance("a")
			change(&in)
			_, err := f.r.Register(t.Context(), in, 0)
			_, lerr := f.r.Lookup(t.Context(), in.Key())
			for verb, err := range map[string]error{
				"register": err, "lookup": lerr,
				"renew":      f.r.Renew(t.Context(), &in, 1),
				"deregister": f.r.Deregister(t.Context(), &in, 1),
				"watch":      f.r.Watch(t.Context(), in.Service+"\x00", nil),
			} {
				if _, ok := errors.AsType[*events.FieldError](err); !ok {
					t.Errorf("%s %.40q: %v", verb, in.Key(), err)
				}
			}
		}
		if f.nc.Status() != nats.CONNECTED || f.stream().State.LastSeq != 0 {
			t.Errorf("the connection is %v, the stream at %d", f.nc.Status(), f.stream().State.LastSeq)
		}
	})
}

// Servers choose the copy that answers at random, also one that has just stopped
// to answer: here the first that is asked.
func TestAQuestionThatGetsNoAnswerIsAskedAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		r := open(t, f.nc, kv.Options{Bucket: "copies", NoCreate: true})
		a := instance("a")
		data, err := events.Encode(a)
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		if _, err := f.nc.Subscribe("$JS.API.DIRECT.GET.KV_copies", func(msg *nats.Msg) {
			if asked++; asked == 1 {
				return
			}
			_ = msg.RespondMsg(&nats.Msg{Data: data, Header: nats.Header{ // else the test fails
				"Nats-Stream": {"KV_copies"}, "Nats-Subject": {"$KV.copies." + a.Key().Inst()},
				"Nats-Sequence": {"1"}, "Nats-Time-Stamp": {time.Now().UTC().Format(time.RFC3339Nano)},
			}})
		}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		got, err := r.Lookup(t.Context(), a.Key())
		if err != nil || got.ID != "a" {
			t.Fatalf("got %+v, %v", got, err)
		}
		within(t, time.Since(began), 0, time.Second)
	})
}
