package kv_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestBucketIsAsDesigned(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		c := f.stream().Config
		for what, ok := range map[string]bool{
			"name":                    c.Name == "KV_proxima",
			"subjects":                len(c.Subjects) == 1 && c.Subjects[0] == "$KV.proxima.>",
			"one message per subject": c.MaxMsgsPerSubject == 1,
			"no age":                  c.MaxAge == 0,
			"message TTLs":            c.AllowMsgTTL && c.SubjectDeleteMarkerTTL == time.Hour,
			"schedules":               c.AllowMsgSchedules && c.AllowRollup,
			"direct":                  c.AllowDirect,
			"deny delete":             c.DenyDelete,
			"discard":                 c.Discard == jetstream.DiscardOld,
			"storage":                 c.Storage == jetstream.FileStorage && c.Replicas == 1,
			"republish": c.RePublish != nil && c.RePublish.Source == "$KV.proxima.inst.>" &&
				c.RePublish.Destination == "proxima.inst.>" && !c.RePublish.HeadersOnly,
		} {
			if !ok {
				t.Errorf("%s: %+v", what, c)
			}
		}
		// It is an ordinary bucket to read.
		f.register(instance("a"))
		bucket, err := f.js().KeyValue(t.Context(), "proxima")
		if err != nil {
			t.Fatal(err)
		}
		e, err := bucket.Get(t.Context(), "inst.user.us-east-1.us-east-1a.a")
		if err != nil || !bytes.Contains(e.Value(), []byte(`"id":"a"`)) {
			t.Errorf("%v, %v", e, err)
		}
	})
}

func TestOpenRefusesWhatCannotHeal(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		plain := natstest.Start(t, func(o *server.Options) { o.JetStream = false })
		bare := natstest.Connect(t, plain)
		if _, err := f.js().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "foreign"}); err != nil {
			t.Fatal(err)
		}
		half := f.stream().Config
		half.Name, half.Subjects, half.RePublish = "KV_half", []string{"$KV.half.>"}, nil
		if _, err := f.js().CreateStream(t.Context(), half); err != nil {
			t.Fatal(err)
		}
		clash := half
		clash.Name, clash.Subjects = "clash", []string{"$KV.taken.>"}
		if _, err := f.js().CreateStream(t.Context(), clash); err != nil {
			t.Fatal(err)
		}
		for name, x := range map[string]struct {
			nc    *nats.Conn
			o     kv.Options
			wants []string
		}{
			"no connection":     {nil, kv.Options{}, []string{"no NATS connection"}},
			"a bad bucket":      {f.nc, kv.Options{Bucket: "a.b"}, []string{"bucket", "a.b"}},
			"a bad domain":      {f.nc, kv.Options{Domain: "*"}, []string{"domain", "*"}},
			"no JetStream":      {bare, kv.Options{}, []string{"JetStream", "nats-server -js"}},
			"a foreign bucket":  {f.nc, kv.Options{Bucket: "foreign"}, []string{"foreign", "not made by Proxima", "message TTLs, message schedules", "remove it or choose another name"}},
			"half a registry":   {f.nc, kv.Options{Bucket: "half"}, []string{"half", "changes republished on half.inst.>"}},
			"a foreign stream":  {f.nc, kv.Options{Bucket: "taken"}, []string{"taken", "overlap"}},
			"too many replicas": {f.nc, kv.Options{Bucket: "many", Replicas: 3}, []string{"many", "replicas"}},
		} {
			began := time.Now()
			x.o.Logger = quiet(nil)
			r, err := kv.Open(t.Context(), x.nc, x.o)
			if r != nil || err == nil {
				t.Errorf("%s: no error", name)
				continue
			}
			for _, want := range x.wants {
				if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: the error does not say %q: %v", name, want, err)
				}
			}
			within(t, time.Since(began), 0, 3*time.Second)
		}
	})
}

func TestTwoOpenersAtOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		const n = 4
		var notFound sync.WaitGroup // all ask before any makes it
		notFound.Add(n)
		var wg sync.WaitGroup
		for i := range n {
			w := newWire(ns)
			nc := w.connect(t)
			w.losing(func(_ string, msg []byte) bool {
				if bytes.Contains(msg, []byte(`"err_code":10059`)) {
					notFound.Done()
					notFound.Wait()
				}
				return false
			})
			wg.Go(func() {
				if _, err := kv.Open(t.Context(), nc, kv.Options{Memory: i%2 == 0, Logger: quiet(nil)}); err != nil {
					t.Errorf("open: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

func TestNoCreateWaitsForTheBucket(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		nc := natstest.Connect(t, ns)
		r := open(t, nc, kv.Options{NoCreate: true})
		f := &fixture{t, ns, nc, r}
		a := f.announce(r, instance("a"), kv.AnnounceOptions{})
		time.Sleep(time.Minute)
		if _, err := f.js().Stream(t.Context(), "KV_proxima"); err == nil {
			t.Fatal("the bucket was made")
		}
		if s := a.State(); s.Registered() || s.Err == nil {
			t.Errorf("%+v", s)
		}
		open(t, nc, kv.Options{})
		registered(t, a, 6*time.Second)
	})
}

func TestOtherBucketsAreApart(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		staging := open(t, f.nc, kv.Options{Bucket: "staging"})
		heard, other := f.listen("staging.inst.user.us-east-1.us-east-1a.a"), f.listen("proxima.>")
		f.announce(staging, instance("a"), kv.AnnounceOptions{})
		v, w := watch(t, staging, "user"), watch(t, f.r, "user")
		v.until("listed", time.Second, count(1))
		if heard() != 1 || other() != 0 || len(w.get("user").Entries) != 0 {
			t.Errorf("heard %d and %d; in the other: %s", heard(), other(), show(w.get("user")))
		}
	})
}

func TestDomain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t, func(o *server.Options) { o.JetStreamDomain = "east" })
		nc := natstest.Connect(t, ns)
		r := open(t, nc, kv.Options{Domain: "east"})
		f := &fixture{t, ns, nc, r}
		f.announce(r, instance("a"), kv.AnnounceOptions{})
		v := watch(t, r, "user")
		v.until("listed", time.Second, count(1))
		// A domain that is out of reach may come back.
		west := open(t, nc, kv.Options{Domain: "west"})
		a := f.announce(west, instance("b"), kv.AnnounceOptions{})
		time.Sleep(10 * time.Second)
		if s := a.State(); s.Registered() || s.Err == nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestConnectionThatGivesUpIsWarnedOf(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		ns := natstest.Start(t)
		for name, x := range map[string]struct {
			opt  nats.Option
			warn bool
		}{
			"for ever": {nats.MaxReconnects(-1), false},
			"60 times": {nats.MaxReconnects(60), true},
			"never":    {nats.NoReconnect(), true},
		} {
			var log testkit.Output
			nc := natstest.Connect(t, ns, x.opt)
			if _, err := kv.Open(t.Context(), nc, kv.Options{Logger: log.Logger(slog.LevelInfo)}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(log.String(), "MaxReconnects(-1)"); got != x.warn {
				t.Errorf("%s: %s", name, log.String())
			}
		}
	})
}

func TestServerThatIsNotThereYet(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		w := newWire(nil)
		t.Cleanup(w.cut)
		nc, err := nats.Connect("", nats.InProcessServer(w), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
			nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1), silent)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		began := time.Now()
		r := open(t, nc, kv.Options{})
		within(t, time.Since(began), 0, 5*time.Second)
		f := &fixture{t: t, nc: nc, r: r}
		a := f.announce(r, instance("a"), kv.AnnounceOptions{})
		v := watch(t, r, "user")
		time.Sleep(time.Minute)
		if s := a.State(); s.Registered() || s.Err == nil || v.applied() != 0 {
			t.Errorf("without a server: %+v, %d snapshots", s, v.applied())
		}
		if _, err := r.Lookup(t.Context(), instanceKey("a")); err == nil {
			t.Error("lookup: no error")
		}
		f.ns = natstest.Start(t)
		w.lead(f.ns)
		v.until("listed", 2*time.Second, func(s events.Snapshot) bool { return of(0, 1)(s) && !s.Stale })
		registered(t, a, time.Second)
		if c := r.Counts(); c.Invalid != 0 {
			t.Errorf("%+v", c)
		}
	})
}

// Open does not wait for a server with a JetStream that does not answer.
func TestWatchesEndAtOnceWhileTheRegistryDoesNotAnswer(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
			t.Fatal(err)
		}
		w.losing(func(_ string, msg []byte) bool { return bytes.Contains(msg, []byte(`"type":"io.nats.jetstream.api`)) })
		var all []*viewer
		for i := range 20 {
			all = append(all, watch(t, r, fmt.Sprint("s", i)))
		}
		time.Sleep(30 * time.Second)
		began := time.Now()
		for _, v := range all {
			v.stop()
		}
		for _, v := range all {
			v.close()
		}
		within(t, time.Since(began), 0, 100*time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Snapshot(ctx, ""); err == nil {
			t.Error("snapshot: no error")
		}
	})
}

func TestTheRegistryKnowsTheTime(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		f.register(instance("a"))
		v.until("listed", time.Second, count(1))
		time.Sleep(time.Minute)
		if by := time.Until(f.r.Now()).Abs(); by > 100*time.Millisecond {
			t.Errorf("it is wrong by %v", by)
		}
	})
}
