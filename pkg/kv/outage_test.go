package kv_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// remote is a registry at the end of a wire.
func (f *fixture) remote(o kv.Options, opts ...nats.Option) (*wire, *nats.Conn, *kv.Registry) {
	f.t.Helper()
	w := newWire(f.ns)
	nc := w.connect(f.t, opts...)
	return w, nc, open(f.t, nc, o)
}

// guard watches and fails when fewer than n instances are ever shown, once
// they were.
func guard(t testing.TB, r *kv.Registry, n int) *viewer {
	t.Helper()
	v := watch(t, r, "user")
	v.until("all listed", 5*time.Second, count(n))
	v.mu.Lock()
	defer v.mu.Unlock()
	v.least = n
	return v
}

func unsuspected(n int) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool {
		for _, e := range s.Entries {
			if e.Suspect {
				return false
			}
		}
		return len(s.Entries) == n && !s.Stale
	}
}

func TestPausedAnnouncerComesBackByItself(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var pause atomic.Int64
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{OnState: func(kv.State) {
			time.Sleep(time.Duration(pause.Load())) // the announcer does nothing meanwhile, as after SIGSTOP
		}})
		registered(t, a, time.Second)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(1))
		for _, d := range []time.Duration{20 * time.Second, 20 * time.Minute} {
			pause.Store(int64(d))
			before := a.State().Revision
			if err := a.Update(func(in *events.Instance) { in.Version = d.String() }); err != nil {
				t.Fatal(err)
			}
			v.until("suspect, being the last one", 20*time.Second, of(1, 0))
			v.until("back", d, of(0, 1))
			testkit.Within(t, time.Second, "a new revision", func() bool { return a.State().Revision > before })
			time.Sleep(time.Second)
		}
	})
}

func TestAnAnnouncerComesBackByItselfAfterItsConnectionWasCut(t *testing.T) {
	for _, outage := range []time.Duration{3 * time.Second, 30 * time.Second, 15 * time.Minute} {
		t.Run(outage.String(), func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				a := f.announce(r, instance("a"), kv.AnnounceOptions{})
				v := watch(t, f.r, "user")
				v.until("listed", 2*time.Second, count(1))
				w.cut()
				time.Sleep(outage)
				want := of(0, 1)
				switch {
				case outage > 10*time.Minute:
					want = of(0, 0)
				case outage > 15*time.Second:
					want = of(1, 0)
				}
				if s := v.get("user"); !want(s) {
					t.Errorf("after an outage of %v: %s", outage, show(s))
				}
				if a.State().Err == nil && outage > 6*time.Second {
					t.Error("the announcer has noticed nothing")
				}
				w.lead(f.ns)
				v.until("back", 2*time.Second, of(0, 1))
				registered(t, a, 2*time.Second)
			})
		})
	}
}

func TestViewsAreStaleWhileTheConnectionIsCut(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		v := watch(t, r, "user")
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		v.until("listed", 2*time.Second, count(1))
		w.cut()
		v.until("stale", time.Second, func(s events.Snapshot) bool { return s.Stale && len(s.Entries) == 1 })
		f.announce(f.r, instance("b"), kv.AnnounceOptions{}) // while the watch is cut off
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		n := v.applied()
		time.Sleep(5 * time.Minute)
		if v.applied() != n {
			t.Errorf("an outage without news was reported %d times", v.applied()-n)
		}
		w.lead(f.ns)
		v.until("the new state", 2*time.Second, func(s events.Snapshot) bool {
			return count(1)(s) && s.Entries[0].ID == "b"
		})
	})
}

func TestBlackHoleIsNoticed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{}, nats.PingInterval(2*time.Second))
		v := watch(t, r, "user")
		a := f.announce(r, instance("a"), kv.AnnounceOptions{})
		v.until("listed", 2*time.Second, count(1))
		w.swallow()
		time.Sleep(time.Minute)
		if s := v.get("user"); !s.Stale || len(s.Entries) != 1 {
			t.Errorf("after a minute the view is %s", show(s))
		}
		if s := a.State(); s.Err == nil {
			t.Errorf("after a minute the announcer is %+v", s)
		}
		w.lead(f.ns)
		v.until("listed again", 3*time.Second, count(1))
		registered(t, a, 3*time.Second)
	})
}

// many announces n instances and waits until they are listed.
func (f *fixture) many(n int, ttl time.Duration) []*kv.Announcement {
	f.t.Helper()
	all := make([]*kv.Announcement, n)
	for i := range all {
		in := instance(fmt.Sprintf("i%03d", i))
		in.TTL = ttl
		all[i] = f.announce(f.r, in, kv.AnnounceOptions{})
	}
	for _, a := range all {
		registered(f.t, a, 5*time.Second)
	}
	return all
}

func TestAWipedBucketHealsAndNoInstanceIsReportedGone(t *testing.T) {
	for name, subject := range map[string]string{
		"on a record":       inst + "i000",
		"on a lease":        lease + "i000",
		"on a foreign key":  "$KV.proxima.inst.other._._.x",
		"outside all names": "$KV.proxima.x",
	} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				const n, ttl = 30, 15 * time.Second
				all := f.many(n, ttl)
				v := guard(t, f.r, n)
				if _, err := f.js().PublishMsg(t.Context(), &nats.Msg{
					Subject: subject, Data: []byte("?"), Header: nats.Header{"Nats-Rollup": {"all"}},
				}); err != nil {
					t.Fatal(err)
				}
				if got := f.stream().State.Msgs; got != 1 {
					t.Fatalf("%d messages are left", got)
				}
				time.Sleep(ttl/3 + ttl/30 + time.Second)
				if e, err := f.r.Snapshot(t.Context(), "user"); err != nil || len(e) != 1 || len(e[0].Entries) != n {
					t.Errorf("a third of the ttl later %v is listed, %v", e, err)
				}
				v.until("all well again", 6*time.Second, unsuspected(n))
				for _, a := range all {
					if !a.State().Registered() || a.State().Err != nil || a.State().Lost != 1 {
						t.Errorf("%+v", a.State())
					}
				}
				if n := f.r.Counts().Snapshots; n > 12 { // all come back within 5s, and each is a surprise
					t.Errorf("it took %d snapshots", n)
				}
			})
		})
	}
}

func TestVanishedInstanceIsSuspectAndGoneAfterTenMinutes(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		in := instance("a")
		in.TTL = time.Hour // nothing will expire
		f.register(in)
		v := guard(t, f.r, 1)
		f.wipe()
		began := time.Now()
		v.until("suspect", time.Minute, func(s events.Snapshot) bool { return s.Entries[0].Suspect })
		v.allow(0)
		v.until("gone", time.Hour, count(0))
		within(t, time.Since(began), 10*time.Minute, 11*time.Minute)
	})
}

func TestDeletedStreamIsMadeAnew(t *testing.T) {
	for _, again := range []string{"by us", "by another"} {
		t.Run(again, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				const n, ttl = 20, 15 * time.Second
				f.many(n, ttl)
				v := guard(t, f.r, n)
				config := f.stream().Config
				if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
					t.Fatal(err)
				}
				if again != "by us" {
					if _, err := f.js().CreateStream(t.Context(), config); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(ttl/3 + ttl/30 + time.Second)
				if e, err := f.r.Snapshot(t.Context(), "user"); err != nil || len(e) != 1 || len(e[0].Entries) != n {
					t.Errorf("a third of the ttl later %v is listed, %v", e, err)
				}
				v.until("all well again", 6*time.Second, unsuspected(n))
				// The new life is followed like the old.
				f.announce(f.r, instance("new"), kv.AnnounceOptions{})
				v.until("a new one", time.Second, unsuspected(n+1))
			})
		})
	}
}

func TestServerRestart(t *testing.T) {
	for memory, downs := range map[bool][]time.Duration{
		true:  {time.Second, 40 * time.Second},
		false: {time.Second, 40 * time.Second, 12 * time.Minute}, // longer than a record lasts
	} {
		for _, down := range downs {
			t.Run(fmt.Sprintf("memory=%v,down=%v", memory, down), func(t *testing.T) {
				natstest.Bubble(t, func(t *testing.T) {
					dir := t.TempDir()
					at := func(o *server.Options) { o.StoreDir = dir }
					f := &fixture{t: t, ns: natstest.Start(t, at)}
					w, nc, r := f.remote(kv.Options{Memory: memory})
					f.nc, f.r = nc, r
					const n, ttl = 20, 5 * time.Second
					f.many(n, ttl)
					dead := instance("dead")
					dead.TTL = ttl
					f.register(dead)
					v := guard(t, f.r, n+1)
					v.allow(n) // the dead one may go
					natstest.Stop(f.ns)
					w.cut()
					v.until("stale", 5*time.Second, func(s events.Snapshot) bool { return s.Stale })
					time.Sleep(down)
					f.ns = natstest.Start(t, at)
					w.lead(f.ns)
					v.until("the living are well", 3*time.Second, func(s events.Snapshot) bool {
						living := 0
						for _, e := range s.Entries {
							if !e.Suspect && e.ID != "dead" {
								living++
							}
						}
						return living == n && !s.Stale
					})
					v.until("the dead one is gone", 11*time.Minute, unsuspected(n))
				})
			})
		}
	}
}

func TestAnnouncerSaysWhatIsWrong(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{})
		registered(t, a, time.Second)
		// An operator puts something else in the place of the bucket.
		if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.js().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "proxima"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s := a.State()
		if s.Err == nil {
			t.Fatalf("no error: %+v", s)
		}
		// It is taken away again.
		if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
			t.Fatal(err)
		}
		registered(t, a, 6500*time.Millisecond)
	})
}

func TestConnectionThatIsClosedForGood(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		nc := natstest.Connect(t, f.ns)
		r := open(t, nc, kv.Options{})
		a := f.announce(r, instance("a"), kv.AnnounceOptions{Drain: time.Minute})
		v := watch(t, r, "user")
		v.until("listed", time.Second, count(1))
		registered(t, a, time.Second)
		nc.Close()
		v.until("stale", time.Second, func(s events.Snapshot) bool { return s.Stale && len(s.Entries) == 1 })
		time.Sleep(time.Minute)
		if s := a.State(); !errors.Is(s.Err, nats.ErrConnectionClosed) || !strings.Contains(s.Err.Error(), "the program closed it") || !s.Lapsed {
			t.Errorf("state %+v", s)
		}
		began := time.Now()
		if err := a.Leave(context.Background()); err == nil {
			t.Error("leave: no error")
		}
		within(t, time.Since(began), 0, time.Second)
		v.close()
		b := f.announce(r, instance("b"), kv.AnnounceOptions{})
		time.Sleep(time.Second)
		if s := b.State(); s.Registered() || s.Err == nil {
			t.Errorf("state %+v", s)
		}
		if err := r.Watch(t.Context(), "user", nil); err == nil {
			t.Error("watch: no error")
		}
	})
}

// The bucket is away for so long that a caller asks for it only every few
// seconds. What is heard from it says earlier that it is back.
func TestAStaleViewIsFreshWhenChangesArriveAgain(t *testing.T) {
	for range 5 { // the time between two questions is random
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			f.register(instance("a"))
			reader := open(t, f.nc, kv.Options{NoCreate: true})
			v := watch(t, reader, "user")
			v.until("listed", time.Second, count(1))
			if err := f.js().DeleteStream(t.Context(), "KV_proxima"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute + time.Second)
			if !v.get("user").Stale {
				t.Fatal("the view is not stale, though its bucket is gone")
			}
			a := f.announce(open(t, f.nc, kv.Options{}), instance("b"), kv.AnnounceOptions{})
			registered(t, a, time.Second)
			v.until("well", time.Second, func(s events.Snapshot) bool { return !s.Stale && count(2)(s) })
		})
	}
}

// A copy of the stream that is cut off answers what it is asked, as if nothing
// ever happened. Here a lease neither ends nor is renewed.
func TestACopyThatIsCutOffIsNotTakenForTheRegistry(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.populate(3, 0) // records with a ttl of 15 s, and no lease that could end
		in := instance("long")
		in.TTL = time.Hour
		rev := f.register(in)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, count(4))
		time.Sleep(ttl15)
		if v.get("user").Stale {
			t.Error("the view is stale though a lease was renewed lately")
		}
		v.until("stale", 45*time.Second, func(s events.Snapshot) bool { return s.Stale && len(s.Entries) == 4 })
		if age := time.Since(v.get("user").StaleSince); age < ttl15 || age > 50*time.Second {
			t.Errorf("stale for %v", age)
		}
		applied := v.applied()
		time.Sleep(time.Minute)
		if n := v.applied() - applied; n != 0 {
			t.Errorf("%d more views, while nothing has changed", n)
		}
		if err := f.r.Renew(t.Context(), &in, rev); err != nil {
			t.Fatal(err)
		}
		v.until("well", 8*time.Second, func(s events.Snapshot) bool { return !s.Stale && s.StaleSince.IsZero() })

		v.until("stale once more", time.Minute, func(s events.Snapshot) bool { return s.Stale })
		f.announce(f.r, instance("new"), kv.AnnounceOptions{})
		v.until("well as soon as a change is heard", time.Second, func(s events.Snapshot) bool { return !s.Stale && count(5)(s) })
	})
}

// While changes are heard all the time a question may be lost: it is given up
// all the same.
func TestARequestTimesOutThoughChangesArrive(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		r := open(t, f.nc, kv.Options{Bucket: "copies", NoCreate: true})
		asked := 0
		if _, err := f.nc.Subscribe("$JS.API.DIRECT.GET.KV_copies", func(msg *nats.Msg) {
			if !strings.Contains(string(msg.Data), "inst.user") {
				return // evacuations
			}
			if asked++; asked == 1 { // the first snapshot; then nothing
				_ = msg.RespondMsg(&nats.Msg{Header: nats.Header{"Status": {"404"}, "Description": {"No Results"}}})
			}
		}); err != nil {
			t.Fatal(err)
		}
		v := watch(t, r, "user")
		a := instance("a")
		for n := 1; !v.get("user").Stale; n++ {
			if n > 600 {
				t.Fatalf("after 30s no question was given up; %d were asked; have %s", asked, show(v.get("user")))
			}
			a.Version = fmt.Sprint(n)
			data, err := events.Encode(a)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.nc.PublishMsg(&nats.Msg{Subject: "copies." + a.Key().Inst(), Data: data, Header: nats.Header{
				"Nats-Stream": {"KV_copies"}, "Nats-Subject": {"$KV.copies." + a.Key().Inst()},
				"Nats-Sequence": {fmt.Sprint(n)}, "Nats-Last-Sequence": {fmt.Sprint(n - 1)},
				"Nats-Time-Stamp": {time.Now().UTC().Format(time.RFC3339Nano)},
			}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

// wipe empties the bucket, as every user can that may write one key.
func (f *fixture) wipe() {
	f.t.Helper()
	if _, err := f.js().PublishMsg(f.t.Context(), &nats.Msg{
		Subject: "$KV.proxima.x", Header: nats.Header{"Nats-Rollup": {"all"}},
	}); err != nil {
		f.t.Fatal(err)
	}
}

// A caller of many services has as many views. That they are stale is said once.
func TestAnOutageIsLoggedOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w := newWire(f.ns)
		nc := w.connect(t)
		var log testkit.Output
		r := open(t, nc, kv.Options{Logger: log.Logger(slog.LevelInfo)})
		for i := range 10 {
			watch(t, r, fmt.Sprint("service-", i))
		}
		time.Sleep(time.Second)
		for range 2 {
			w.cut()
			time.Sleep(10 * time.Second)
			w.lead(f.ns)
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		for what, want := range map[string]int{"the registry cannot be reached": 2, "the registry is back": 2} {
			if got := strings.Count(log.String(), what); got != want {
				t.Errorf("%q is logged %d times, want %d:\n%s", what, got, want, &log)
			}
		}
	})
}

// What was sent on a connection that is lost is not answered any more: the lease
// is renewed on the new one, at once.
func TestARenewalIsNotWaitedForOnALostConnection(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{OpTimeout: time.Minute})
		a := f.announce(r, instance("a"), kv.AnnounceOptions{})
		registered(t, a, time.Second)
		v := guard(t, f.r, 1)
		renewals := make(chan *nats.Msg, 100)
		if _, err := f.nc.ChanSubscribe("$KV.proxima.lease.>", renewals); err != nil {
			t.Fatal(err)
		}
		w.losing(acks(1))
		<-renewals
		time.Sleep(time.Second)
		if w.lost() != 1 {
			t.Fatalf("%d answers lost, want the one to the renewal", w.lost())
		}
		w.lead(f.ns)
		select {
		case <-renewals:
		case <-time.After(reconnectWait + time.Second):
			t.Error("the lease is not renewed")
		}
		time.Sleep(time.Minute)
		v.until("it is there", time.Second, unsuspected(1))
		if s := a.State(); s.Err != nil {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheLeaseThatIsAboutToEndIsRenewedFirst(t *testing.T) {
	for _, tt := range []struct{ ttl, ago, want time.Duration }{
		{15 * time.Second, 5 * time.Second, time.Second},
		{15 * time.Second, 14600 * time.Millisecond, 100*time.Millisecond + 1},
		{15 * time.Second, 15*time.Second - 1, 1},
		{15 * time.Second, 15 * time.Second, time.Second}, // it is too late, as for all others
		{15 * time.Second, time.Hour, time.Second},
		{2 * time.Second, time.Second, 250*time.Millisecond + 1},
		{time.Second, time.Minute, time.Second / 3},
	} {
		if got := kv.Rush(tt.ttl, tt.ago); got != tt.want {
			t.Errorf("ttl %v, renewed %v ago: at most %v, want %v", tt.ttl, tt.ago, got, tt.want)
		}
	}
}

func TestALogLineWithoutAnErrorHasNoAttributeForIt(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var log testkit.Output
		a, err := f.r.Announce(instance("a"), kv.AnnounceOptions{Logger: log.Logger(slog.LevelInfo)})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); !strings.Contains(got, `msg="announcement changed"`) || strings.Contains(got, "error=") {
			t.Errorf("log:\n%s", got)
		}
	})
}
