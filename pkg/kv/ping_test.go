package kv_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

const pings = "proxima.ping.user.us-east-1.us-east-1a."

// ping asks instance a whether it is there.
func (f *fixture) ping(ctx context.Context) (*nats.Msg, error) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return f.nc.RequestWithContext(ctx, pings+"a", nil)
}

// answers wants a ping to be answered, or to have no responder.
func (f *fixture) answers(when string, want bool) {
	f.t.Helper()
	msg, err := f.ping(f.t.Context())
	switch {
	case want && err != nil:
		f.t.Errorf("%s: %v", when, err)
	case want && len(msg.Data)+len(msg.Header) > 0:
		f.t.Errorf("%s: the answer is %q %v, want nothing", when, msg.Data, msg.Header)
	case !want && !errors.Is(err, nats.ErrNoResponders):
		f.t.Errorf("%s: %v, want %v", when, err, nats.ErrNoResponders)
	}
}

func TestAnInstanceAnswersPingsWhileItIsListed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		var ready atomic.Bool
		a := f.announce(r, instance("a"), kv.AnnounceOptions{Drain: 10 * time.Second, Check: func(context.Context) error {
			if !ready.Load() {
				return errors.New("starting")
			}
			return nil
		}})
		time.Sleep(time.Second)
		f.answers("before its check has passed", false)

		ready.Store(true)
		registered(t, a, 5*time.Second)
		f.answers("when it is listed", true)
		ready.Store(false)
		testkit.Within(t, 20*time.Second, "not ready", func() bool { return a.State().Status == events.NotReady })
		f.answers("when it is not ready", true)
		ready.Store(true)

		w.cut()
		time.Sleep(time.Second)
		f.answers("when it is cut off", false)
		w.lead(f.ns)
		time.Sleep(5 * time.Second)
		f.answers("when it is back", true)

		f.wipe()
		time.Sleep(ttl15)
		f.answers("after the registry was emptied", true)

		left := make(chan error, 1)
		go func() { left <- a.Leave(t.Context()) }()
		time.Sleep(5 * time.Second)
		f.answers("while it is draining", true)
		if err := <-left; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Millisecond) // until the server knows
		f.answers("when it has left", false)
	})
}

func TestAnInstanceThatIsListedAnswersPings(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		v.until("a snapshot", time.Second, count(0))
		var asked atomic.Int32
		v.hook(func(s events.Snapshot) {
			if len(s.Entries) > 0 {
				asked.Add(1)
				f.answers("when it is first seen", true)
			}
		})
		for range 5 {
			a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
			v.until("listed", time.Second, count(1))
			if err := a.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			v.until("gone", time.Second, count(0))
		}
		if asked.Load() < 5 {
			t.Errorf("asked %d times", asked.Load())
		}
	})
}

func TestOnlyTheOneThatIsListedAnswersPings(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		first := f.announce(r, incarnation("one", "10.0.0.1:80"), kv.AnnounceOptions{})
		registered(t, first, time.Second)
		second := f.announce(f.r, incarnation("two", "10.0.0.2:80"), kv.AnnounceOptions{})
		testkit.Within(t, ttl15, "conflict", func() bool { return second.State().Phase == kv.Conflict })
		w.swallow() // the server still thinks that it is there
		if msg, err := f.ping(t.Context()); err == nil {
			t.Errorf("the second answered %+v for the first", msg)
		}
		registered(t, second, 2*ttl15)
		w.lead(f.ns)
		testkit.Within(t, 2*ttl15, "the first gives up", func() bool { return first.State().Phase == kv.Replaced })
		<-first.Done()
		heard := f.listen("_INBOX.count")
		if err := f.nc.PublishRequest(pings+"a", "_INBOX.count", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := heard(); n != 1 {
			t.Errorf("%d answers, want 1", n)
		}
	})
}

// NATS lets every client name any subject for the answer.
func TestAPingCannotMakeAnInstanceWriteToTheRegistry(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		registered(t, a, time.Second)
		f.announce(f.r, instance("b"), kv.AnnounceOptions{})
		guard(t, f.r, 2)
		before := f.get("$KV.proxima.inst.user.us-east-1.us-east-1a.b").Sequence
		heard := f.listen("proxima.>")
		sent := 0
		for _, to := range []string{
			"$KV.proxima.inst.user.us-east-1.us-east-1a.b", "$JS.API.STREAM.DELETE.KV_proxima",
			"proxima.inst.user.us-east-1.us-east-1a.b", pings + "b", pings + "a",
		} {
			if err := f.nc.PublishRequest(pings+"a", to, nil); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		if err := f.nc.Publish(pings+"a", nil); err != nil { // wants no answer
			t.Fatal(err)
		}
		sent++
		f.answers("afterwards", true) // so all of them were handled
		sent++
		if n := heard(); n != sent {
			t.Errorf("%d messages below proxima, want the %d pings", n, sent)
		}
		if after := f.get("$KV.proxima.inst.user.us-east-1.us-east-1a.b").Sequence; after != before {
			t.Errorf("the record of b was written: %d, then %d", before, after)
		}
	})
}

func TestAFloodOfPingsDelaysNoHeartbeat(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		_, _, r := f.remote(kv.Options{})
		in := instance("a")
		in.TTL = 3 * time.Second
		a := f.announce(r, in, kv.AnnounceOptions{OnState: func(s kv.State) {
			if s.Err != nil {
				t.Errorf("in trouble: %+v", s)
			}
		}})
		registered(t, a, time.Second)
		rev := a.State().Revision
		for range 20 {
			for range 5000 {
				if err := f.nc.PublishRequest(pings+"a", "_INBOX.nobody", nil); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
		}
		if s := a.State(); s.Revision != rev {
			t.Errorf("announced again: %+v", s)
		}
		f.answers("after the flood", true)
	})
}
