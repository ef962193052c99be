package kv_test

import (
	"slices"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// named are names that a wrong filter would mix up.
var named = []string{"payments", "payments.user", "payments.user.v1", "payments.User", "user"}

func ofService(service string) events.Instance {
	in := instance("a")
	in.Service = service
	return in
}

func TestAWatchOfADottedServiceIsOfThatServiceOnly(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		f.announce(f.r, ofService(named[0]), kv.AnnounceOptions{})
		f.announce(f.r, ofService(named[1]), kv.AnnounceOptions{})
		var views []*viewer
		for _, service := range named {
			views = append(views, watch(t, f.r, service, func(s events.Snapshot) {
				if s.Service != service || slices.ContainsFunc(s.Entries, func(e events.Entry) bool { return e.Service != service }) {
					t.Errorf("the watch of %s shows %s", service, show(s))
				}
			}))
		}
		for _, service := range named[2:] {
			f.announce(f.r, ofService(service), kv.AnnounceOptions{})
		}
		for i, v := range views {
			v.until(named[i]+" is listed", time.Second, count(1))
		}
		all, err := f.r.Snapshot(t.Context(), "")
		if err != nil || len(all) != len(named) {
			t.Fatalf("%d services are listed, %v", len(all), err)
		}
		for i, service := range slices.Sorted(slices.Values(named)) {
			if all[i].Service != service || len(all[i].Entries) != 1 {
				t.Errorf("%s is listed as %s", service, show(all[i]))
			}
		}
		if n := f.r.Counts().Invalid; n > 0 {
			t.Errorf("%d messages count as invalid", n)
		}
	})
}

func TestTheLeaseOfADottedServiceEnds(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		dies, lives := ofService("payments.user"), ofService("payments.user")
		dies.ID, lives.TTL = "dies", time.Hour
		heard := f.listen("proxima.inst.payments=.>")
		f.register(lives)
		f.register(dies)
		v := watch(t, f.r, "payments.user")
		v.until("listed", time.Second, count(2))
		v.until("one is gone", 17*time.Second, count(1))
		if n := heard(); n != 3 {
			t.Errorf("two registrations and an expiry were heard as %d messages", n)
		}
		e, err := f.r.Lookup(t.Context(), lives.Key())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.r.Deregister(t.Context(), e.Instance, e.Revision); err != nil {
			t.Fatal(err)
		}
		v.until("the other is gone", time.Second, count(0))
	})
}

func TestSnapshotsOfDottedServicesAreKeptOnDisk(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		f := setup(t)
		for _, service := range named {
			f.register(ofService(service))
		}
		w, _, r := f.remote(kv.Options{SnapshotDir: dir})
		v := watch(t, r, "")
		time.Sleep(6 * time.Second)
		v.close()
		w.cut()
		r = open(t, away(t, w), kv.Options{SnapshotDir: dir})
		for _, service := range named {
			v := watch(t, r, service)
			v.until("the last list of "+service, 100*time.Millisecond, of(0, 1))
		}
	})
}
