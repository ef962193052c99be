package kv_test

import (
	"strings"
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

// domain makes a server one of a region.
func domain(region string) func(*server.Options) {
	return func(o *server.Options) { o.JetStreamDomain = region }
}

// setupRegion is a server of region us, cut off from eu.
func setupRegion(t *testing.T) *fixture {
	t.Helper()
	ns := natstest.Start(t, domain("us"))
	nc := natstest.Connect(t, ns, silent)
	return &fixture{t, ns, nc, open(t, nc, kv.Options{Domain: "us", Regions: []string{"us", "eu"}})}
}

func TestOptionsOfRegionsAreChecked(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nc := natstest.Connect(t, natstest.Start(t, domain("us")))
		for name, tt := range map[string]struct {
			o    kv.Options
			says string
		}{
			"no domain":              {kv.Options{Regions: []string{"us", "eu"}}, "domain"},
			"a region that is none":  {kv.Options{Domain: "us", Regions: []string{"e u"}}, `region "e u"`},
			"a region with wildcard": {kv.Options{Domain: "us", Regions: []string{"*"}}, `region "*"`},
		} {
			if _, err := kv.Open(t.Context(), nc, tt.o); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// One region is as none.
		r := open(t, nc, kv.Options{Domain: "us", Regions: []string{"us"}})
		in := at("a", "eu", "eu-a")
		if _, err := r.Register(t.Context(), in, 0); err != nil {
			t.Errorf("a registry of one region refuses another: %v", err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Stream(t.Context(), "KV_proxima_us"); err == nil {
			t.Error("it sources others")
		}
	})
}

// The others need not be reachable: not at the start, and not later.
func TestARegionAloneRegistersExpiresAndWatches(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t)
		v := watch(t, f.r, "user")
		v.until("an empty snapshot", 2*time.Second, func(s events.Snapshot) bool { return s.Service == "user" && !s.Stale })
		f.announce(f.r, at("a", "us", "us-a"), kv.AnnounceOptions{})
		f.announce(f.r, at("lost", "", ""), kv.AnnounceOptions{})
		dies := at("dies", "us", "us-b")
		dies.TTL = 5 * time.Second
		f.register(dies)
		v.until("all", 2*time.Second, count(3))
		v.until("the one without renewals gone", 10*time.Second, count(2))
		snapshots, err := f.r.Snapshot(t.Context(), "user")
		if err != nil || len(snapshots) != 1 || len(snapshots[0].Entries) != 2 {
			t.Errorf("%+v, %v", snapshots, err)
		}
		time.Sleep(time.Hour)
		if s := v.get("user"); len(s.Entries) != 2 || s.Stale {
			t.Errorf("after an hour: %s", show(s))
		}
		f.evacuate(f.r, "us/us-a", true)
		v.until("evacuated", time.Second, evacuated("a"))
	})
}

func TestARegionListsNoInstanceOfAnother(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t)
		stray := at("stray", "eu", "eu-a")
		if _, err := f.r.Announce(stray, kv.AnnounceOptions{}); err == nil || !strings.Contains(err.Error(), "location.region") {
			t.Errorf("announce: %v", err)
		}
		if _, err := f.r.Register(t.Context(), stray, 0); err == nil || !strings.Contains(err.Error(), "want us") {
			t.Errorf("register: %v", err)
		}
		if err := f.r.Renew(t.Context(), &stray, 1); err == nil || !strings.Contains(err.Error(), "want us") {
			t.Errorf("renew: %v", err)
		}
		if f.get("$KV.proxima.lease.user.eu.eu-a.stray") != nil {
			t.Error("it has a lease here")
		}
		// One that does not know of regions lists it all the same: no watch shows it.
		plain := open(t, f.nc, kv.Options{})
		if _, err := plain.Register(t.Context(), stray, 0); err != nil {
			t.Fatal(err)
		}
		v := watch(t, f.r, "user")
		f.announce(f.r, at("a", "us", "us-a"), kv.AnnounceOptions{})
		v.until("the one that is here", 2*time.Second, func(s events.Snapshot) bool { return count(1)(s) && s.Entries[0].ID == "a" })
	})
}

// What is needed is made again with the bucket, and for a region that comes later.
func TestWhatRegionsReadEachOtherWithIsMadeAgain(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t)
		f.announce(f.r, at("a", "us", "us-a"), kv.AnnounceOptions{})
		consumers := func() string {
			s, err := f.js().Stream(t.Context(), "KV_proxima")
			if err != nil {
				return err.Error()
			}
			var all []string
			names := s.ConsumerNames(t.Context())
			for n := range names.Name() {
				all = append(all, n)
			}
			return strings.Join(all, " ")
		}
		if got := consumers(); got != "region_eu" {
			t.Errorf("consumers: %s", got)
		}
		for _, stream := range []string{"KV_proxima", "KV_proxima_us"} {
			if err := f.js().DeleteStream(t.Context(), stream); err != nil {
				t.Fatal(err)
			}
		}
		testkit.Within(t, time.Minute, "consumers again", func() bool { return consumers() == "region_eu" })
		v := watch(t, f.r, "user")
		v.until("the instance again", time.Minute, count(1))

		open(t, f.nc, kv.Options{Domain: "us", Regions: []string{"us", "ap"}})
		if got := consumers(); got != "region_ap region_eu" && got != "region_eu region_ap" {
			t.Errorf("consumers: %s", got)
		}
	})
}

// A region of which nothing is heard keeps its instances for as long as records
// last, and then as suspects: the word of its own region is missing.
func TestInstancesOfARegionOutOfReachBecomeSuspects(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t)
		// As eu would have sent it: no client writes to the bucket of the others.
		if err := f.js().DeleteStream(t.Context(), "KV_proxima_us"); err != nil {
			t.Fatal(err)
		}
		open := func(subjects ...string) {
			if _, err := f.js().CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
				Name: "KV_proxima_us", Subjects: subjects, MaxMsgsPerSubject: 1, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Hour, AllowDirect: true,
				RePublish: &jetstream.RePublish{Source: "$KV.proxima_us.>", Destination: "proxima_us.>"},
			}); err != nil {
				t.Fatal(err)
			}
		}
		open("$KV.proxima_us.>")
		far := at("far", "eu", "eu-a")
		data, err := events.Encode(far)
		if err != nil {
			t.Fatal(err)
		}
		put := func(msg *nats.Msg, ttl time.Duration) {
			t.Helper()
			msg.Subject = "$KV.proxima_us." + far.Key().Inst()
			if _, err := f.js().PublishMsg(t.Context(), msg, jetstream.WithMsgTTL(ttl)); err != nil {
				t.Fatal(err)
			}
		}
		put(&nats.Msg{Data: data}, 10*time.Minute)
		f.announce(f.r, at("near", "us", "us-a"), kv.AnnounceOptions{})
		v := watch(t, f.r, "user")
		v.until("both", 5*time.Second, count(2))
		time.Sleep(9*time.Minute + 50*time.Second)
		if !unsuspected(2)(v.get("user")) {
			t.Errorf("after most of ten minutes: %s", show(v.get("user")))
		}
		suspectOf := func(want int) func(events.Snapshot) bool {
			return func(s events.Snapshot) bool {
				n := 0
				for _, e := range s.Entries {
					if e.Suspect && e.ID == "far" {
						n++
					}
				}
				return len(s.Entries) == 2 && n == want
			}
		}
		v.until("the far one suspect", time.Minute, suspectOf(1))
		time.Sleep(2*time.Hour + 5*time.Minute) // a removal stays readable for one
		if !suspectOf(1)(v.get("user")) {
			t.Errorf("after hours: %s", show(v.get("user")))
		}
		put(&nats.Msg{Data: data}, 10*time.Minute)
		v.until("it is heard of again", time.Second, unsuspected(2))
		// The word of its region counts: it has left.
		put(&nats.Msg{Data: []byte(`{"reason":"deregistered"}`), Header: nats.Header{"KV-Operation": {"PURGE"}}}, time.Hour)
		v.until("gone", time.Second, count(1))
	})
}
