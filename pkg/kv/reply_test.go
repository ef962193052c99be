package kv_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestLostReplies(t *testing.T) {
	in := func(s events.Snapshot, id string) *events.Instance {
		for _, e := range s.Entries {
			if e.ID == id {
				return e.Instance
			}
		}
		return nil
	}
	for n, what := range []string{"the lease", "the record"} {
		t.Run("of the first registration: "+what, func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				w.losing(acks(n + 1))
				a := f.announce(r, instance("a"), kv.AnnounceOptions{})
				v := watch(t, f.r, "user")
				registered(t, a, 5*time.Second)
				v.until("listed", time.Second, count(1))
				if w.lost() != 1 {
					t.Errorf("%d replies were lost", w.lost())
				}
				if rev := v.get("user").Entries[0].Revision; rev != a.State().Revision {
					t.Errorf("the record is at %d, the announcer says %d", rev, a.State().Revision)
				}
				time.Sleep(time.Minute)
				if s := a.State(); !s.Registered() || s.Err != nil || len(v.get("user").Entries) != 1 {
					t.Errorf("a minute later: %+v, %s", s, show(v.get("user")))
				}
			})
		})
		// The record comes first there.
		t.Run("of an update: "+[]string{"the record", "the lease"}[n], func(t *testing.T) {
			natstest.Bubble(t, func(t *testing.T) {
				f := setup(t)
				w, _, r := f.remote(kv.Options{})
				a := f.announce(r, instance("a"), kv.AnnounceOptions{})
				registered(t, a, time.Second)
				v := guard(t, f.r, 1)
				w.losing(acks(n + 1))
				if err := a.Update(func(in *events.Instance) { in.Weight = 7 }); err != nil {
					t.Fatal(err)
				}
				v.until("updated", 5*time.Second, func(s events.Snapshot) bool { return in(s, "a").Weight == 7 })
				registered(t, a, 5*time.Second)
				time.Sleep(time.Minute)
				if s := a.State(); w.lost() != 1 || s.Err != nil || s.Revision != v.get("user").Entries[0].Revision {
					t.Errorf("a minute later, with %d lost: %+v, %s", w.lost(), s, show(v.get("user")))
				}
			})
		})
	}
	t.Run("of a heartbeat", func(t *testing.T) {
		natstest.Bubble(t, func(t *testing.T) {
			f := setup(t)
			w, _, r := f.remote(kv.Options{})
			a := f.announce(r, instance("a"), kv.AnnounceOptions{})
			registered(t, a, time.Second)
			guard(t, f.r, 1)
			rev := a.State().Revision
			w.losing(acks(1))
			time.Sleep(time.Minute)
			if s := a.State(); w.lost() != 1 || s.Err != nil || s.Revision != rev {
				t.Errorf("a minute later, with %d lost: %+v", w.lost(), s)
			}
		})
	})
	for _, drain := range []time.Duration{0, time.Second} {
		for n := 1; n <= 1+int(2*drain/time.Second); n++ {
			t.Run(fmt.Sprintf("of leaving: drain=%v, write %d", drain, n), func(t *testing.T) {
				natstest.Bubble(t, func(t *testing.T) {
					f := setup(t)
					w, _, r := f.remote(kv.Options{})
					a := f.announce(r, instance("a"), kv.AnnounceOptions{Drain: drain})
					registered(t, a, time.Second)
					v := watch(t, f.r, "user")
					v.until("listed", time.Second, count(1))
					w.losing(acks(n))
					began := time.Now()
					if err := a.Leave(t.Context()); err != nil {
						t.Errorf("leave: %v", err)
					}
					within(t, time.Since(began), 0, drain+5*time.Second)
					if w.lost() != 1 || f.get(lease+"a") != nil {
						t.Errorf("%d lost; the lease: %+v", w.lost(), f.get(lease+"a"))
					}
					v.until("gone", time.Second, count(0))
				})
			})
		}
	}
}
