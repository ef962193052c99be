package kv_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

const ttl15 = 15 * time.Second

// suspects counts them, and those that are not.
func suspects(s events.Snapshot) (suspect, well int) {
	for _, e := range s.Entries {
		if e.Suspect {
			suspect++
		} else {
			well++
		}
	}
	return suspect, well
}

func of(suspect, well int) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool {
		n, m := suspects(s)
		return n == suspect && m == well
	}
}

// dying registers n instances without renewals, next to some that live.
func (f *fixture) dying(n, living int) {
	f.t.Helper()
	for i := range living {
		in := instance(fmt.Sprintf("living%d", i))
		in.TTL = time.Hour
		f.register(in)
	}
	for i := range n {
		f.register(instance(fmt.Sprintf("dead%d", i)))
	}
}

func TestOneThatExpiresAloneIsGoneAtOnce(t *testing.T) {
	for _, living := range []int{1, 9} {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			f.dying(1, living)
			v := watch(t, f.r, "user")
			time.Sleep(ttl15 + time.Second)
			if !of(0, living)(v.get("user")) {
				t.Errorf("among %d: %s", living, show(v.get("user")))
			}
		})
	}
}

// Without it calls fail for certain, and callers find out by probes whether it is dead.
func TestTheLastOneThatExpiresIsSuspectForTenMinutes(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.dying(1, 0)
		all, one := watch(t, f.r, ""), watch(t, f.r, "user")
		for _, v := range []*viewer{all, one} {
			v.until("listed", time.Second, of(0, 1))
		}
		time.Sleep(ttl15 + time.Second)
		for range 38 {
			for _, v := range []*viewer{all, one} {
				if !of(1, 0)(v.get("user")) {
					t.Fatal(show(v.get("user")))
				}
			}
			time.Sleep(ttl15)
		}
		for _, v := range []*viewer{all, one} {
			v.until("gone", 2*time.Minute, of(0, 0))
		}

		// Others come while it is suspect: then it is one that expired alone.
		f.register(instance("again"))
		one.until("listed", time.Second, of(0, 1))
		one.until("suspect", ttl15+time.Second, of(1, 0))
		f.dying(0, 1)
		one.until("replaced", 2*ttl15, of(0, 1))
	})
}

func TestFewOfManyThatExpireAreGoneAtOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.dying(3, 18) // 14 %
		v := watch(t, f.r, "user")
		time.Sleep(ttl15 + time.Second)
		if !of(0, 18)(v.get("user")) {
			t.Error(show(v.get("user")))
		}
	})
}

// One zone of a large service that loses the registry is few of it, and all
// there is of the zone.
func TestAZoneThatExpiresTogetherIsSuspect(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.dying(2, 40) // here those that live
		for i := range 3 {
			in := instance(fmt.Sprint("zoned", i))
			in.Location.Zone = "us-east-1b"
			f.register(in)
		}
		elsewhere := instance("elsewhere") // the only one of its zone, and dead
		elsewhere.Location.Zone = "us-east-1c"
		f.register(elsewhere)
		v := watch(t, f.r, "user")
		v.until("all", time.Second, of(0, 46))
		time.Sleep(ttl15 + time.Second)
		v.until("the others are gone when their leases fire again", ttl15+time.Second, of(3, 40))
		for range 30 {
			s := v.get("user")
			for _, e := range s.Entries {
				if e.Suspect && e.Location.Zone != "us-east-1b" {
					t.Fatalf("%s is suspect", e.ID)
				}
			}
			if !of(3, 40)(s) {
				t.Fatal(show(s))
			}
			time.Sleep(ttl15)
		}
	})
}

func TestManyThatExpireTogetherAreSuspectForTenMinutes(t *testing.T) {
	for _, x := range []struct{ dead, living int }{{2, 0}, {2, 1}, {4, 18}, {20, 0}} {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			f.dying(x.dead, x.living)
			v := watch(t, f.r, "user")
			time.Sleep(ttl15 + time.Second)
			for range 38 {
				if !of(x.dead, x.living)(v.get("user")) {
					t.Fatalf("%+v: %s", x, show(v.get("user")))
				}
				time.Sleep(ttl15)
			}
			v.until("gone", 2*time.Minute, of(0, x.living))
		})
	}
}

func TestSuspectsComeBack(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{}) // of the announcers, say of one zone
		for i := range 5 {
			f.announce(r, instance(fmt.Sprint("far", i)), kv.AnnounceOptions{})
		}
		f.dying(0, 5)
		v := watch(t, f.r, "user")
		v.until("listed", 2*time.Second, of(0, 10))
		w.cut()
		v.until("the zone is suspect", 20*time.Second, of(5, 5))
		w.lead(f.ns)
		v.until("and back", 2*time.Second, of(0, 10))
	})
}

func TestTheLastSuspectIsGoneWhenItsLeaseFiresAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		f.announce(r, instance("alive"), kv.AnnounceOptions{})
		f.register(instance("dead"))
		f.dying(0, 3)
		v := watch(t, f.r, "user")
		v.until("listed", 2*time.Second, of(0, 5))
		w.cut()
		v.until("both are suspect", 30*time.Second, of(2, 3))
		w.lead(f.ns)
		v.until("one is back", 2*time.Second, of(1, 4))
		v.until("the other is gone", ttl15+time.Second, of(0, 4))
	})
}

func TestOneThatExpiredDuringAnOutageIsGoneATTLLater(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		w, _, r := f.remote(kv.Options{})
		f.dying(1, 4)
		v := watch(t, r, "user")
		v.until("listed", 2*time.Second, of(0, 5))
		w.cut()
		time.Sleep(time.Minute)
		w.lead(f.ns)
		v.until("suspect", 2*time.Second, of(1, 4))
		v.until("gone", ttl15+time.Second, of(0, 4))
	})
}

func TestSuspectsCanBeSwitchedOff(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{NoSuspects: true})
		f.dying(5, 1)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, of(0, 6))
		v.until("expired", ttl15+time.Second, of(0, 1))
		f.wipe()
		v.until("vanished", time.Minute, of(0, 0))
	})
}

func TestTheLastIsNoSuspectEitherWhenThatIsSwitchedOff(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupWith(t, kv.Options{NoSuspects: true})
		f.dying(1, 0)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, of(0, 1))
		v.until("expired", ttl15+time.Second, of(0, 0))
	})
}

func TestARecordThatAnOperatorDeletesIsGoneAtOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.dying(0, 4)
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, of(0, 4))
		bucket, err := f.js().KeyValue(t.Context(), "proxima")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if err := bucket.Delete(t.Context(), fmt.Sprint("inst.user.us-east-1.us-east-1a.living", i)); err != nil {
				t.Fatal(err)
			}
		}
		v.until("gone", time.Second, of(0, 2))
	})
}

func TestDrainingInstancesThatExpireAreGone(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		for i := range 4 {
			in := instance(fmt.Sprint("i", i))
			in.Status = events.Draining
			f.register(in)
		}
		v := watch(t, f.r, "user")
		v.until("listed", time.Second, of(0, 4))
		v.until("gone", ttl15+time.Second, of(0, 0))
	})
}

// Without a leader of the stream no lease can be renewed, and a watch by way of
// another server has seen no outage. The instances with a lease that ends in that
// time may be one only.
func TestOneThatExpiresWhenTheStreamHadNoLeaderIsSuspect(t *testing.T) {
	for name, after := range map[string]time.Duration{"told before": -time.Second, "told after": 50 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				f.dying(1, 9)
				elect := func() { // as the server does
					if err := f.nc.Publish("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.KV_proxima", []byte("{}")); err != nil {
						t.Error(err)
					}
				}
				v := watch(t, f.r, "user")
				v.until("listed", time.Second, count(10))
				v.allow(10)
				if after < 0 {
					time.Sleep(ttl15 + after - time.Second/2)
					elect()
				} else {
					heard := f.listen("proxima.inst.>")
					for heard() == 0 {
						time.Sleep(10 * time.Millisecond)
					}
					time.Sleep(after)
					elect()
				}
				v.until("it is suspect", 3*time.Second, of(1, 9))
				v.allow(9)
				v.until("and gone when it stays so", 3*ttl15, of(0, 9))
			})
		})
	}
}

// A mass of suspects is one line in the log, however many there are.
func TestManySuspectsAreLoggedOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var log testkit.Output
		r := open(t, f.nc, kv.Options{Logger: log.Logger(slog.LevelInfo)})
		f.dying(100, 10)
		v := watch(t, r, "user")
		v.until("suspect", 20*time.Second, of(100, 10))
		time.Sleep(ttl15)
		v.close()
		if got := strings.Count(log.String(), "expired together"); got != 1 {
			t.Errorf("%d lines:\n%s", got, &log)
		}
	})
}
