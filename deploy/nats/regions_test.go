package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestARegionDoesNotStartHalfConfigured(t *testing.T) {
	common := map[string]string{
		"NATS_NAME": "n1", "NATS_REGION": "eu-west-1", "NATS_LISTEN": "127.0.0.1:4222", "NATS_HTTP": "127.0.0.1:8222", "NATS_STORE_DIR": t.TempDir(),
	}
	for conf, own := range map[string]string{"hub.conf": "NATS_LEAF_LISTEN", "leaf.conf": "NATS_HUB"} {
		all := map[string]string{own: map[string]string{"NATS_LEAF_LISTEN": "127.0.0.1:7422", "NATS_HUB": "nats-leaf://127.0.0.1:7422"}[own]}
		maps.Copy(all, common)
		for missing := range all {
			t.Run(conf+" without "+missing, func(t *testing.T) {
				for name, value := range all {
					if name != missing {
						t.Setenv(name, value)
					}
				}
				_, err := server.ProcessConfigFile(conf)
				if err == nil || !strings.Contains(err.Error(), missing) {
					t.Errorf("got error %v, want one that names %s", err, missing)
				}
			})
		}
		t.Run(conf, func(t *testing.T) {
			for name, value := range all {
				t.Setenv(name, value)
			}
			opts, err := server.ProcessConfigFile(conf)
			if err != nil {
				t.Fatal(err)
			}
			for what, host := range map[string]string{"clients": opts.Host, "monitoring": opts.HTTPHost, "leaf nodes": opts.LeafNode.Host} {
				if addr, err := netip.ParseAddr(host); what == "leaf nodes" && opts.LeafNode.Port == 0 {
					continue
				} else if err != nil || !addr.IsLoopback() {
					t.Errorf("the address for %s is %q, not loopback", what, host)
				}
			}
			if opts.JetStreamDomain != "eu-west-1" {
				t.Errorf("the JetStream domain is %q", opts.JetStreamDomain)
			}
		})
	}
}

// in is an instance in a region.
func in(region, id string) events.Instance {
	x := instance(id)
	x.Location = topology.Location{Region: region, Zone: region + "a"}
	return x
}

// announce announces an instance until the test ends.
func (s *site) announce(t *testing.T, x events.Instance) *kv.Announcement {
	t.Helper()
	a, err := s.r.Announce(x, kv.AnnounceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Leave(context.Background()) }) // the server may be gone
	return a
}

// plain opens the bucket of a region as one that knows of no other.
func (s *site) plain(t *testing.T) *kv.Registry {
	t.Helper()
	r, err := kv.Open(t.Context(), s.nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// all are the views of a service from everywhere.
type all []*viewer

func watchAll(t *testing.T, sites []*site) all {
	t.Helper()
	views := make(all, len(sites))
	for i, s := range sites {
		views[i] = watchWith(t, s.r)
	}
	return views
}

func (a all) until(t *testing.T, what string, ok func(events.Snapshot) bool) {
	t.Helper()
	for i, v := range a {
		v.until(t, what+" seen from "+regions[i], ok)
	}
}

// ids says that these instances are listed, and no others.
func ids(want ...string) func(events.Snapshot) bool {
	want = slices.Sorted(slices.Values(want))
	return func(s events.Snapshot) bool {
		var got []string
		for _, e := range s.Entries {
			got = append(got, e.ID)
		}
		slices.Sort(got)
		return !s.Stale && slices.Equal(got, want)
	}
}

func TestRegionsSeeEachOtherAndDoNotMix(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	us, eu, ap := sites[0], sites[1], sites[2]
	views := watchAll(t, sites)
	leaver := us.announce(t, in(us.region, "us"))
	eu.announce(t, in(eu.region, "eu"))
	ap.announce(t, in(ap.region, "ap"))
	views.until(t, "one of each region", ids("us", "eu", "ap"))

	// An instance that ends in one region ends in all.
	mortal := in(eu.region, "mortal")
	mortal.TTL = 3 * time.Second // seen from everywhere before it ends
	if _, err := eu.r.Register(t.Context(), mortal, 0); err != nil {
		t.Fatal(err)
	}
	views.until(t, "the instance without renewals", ids("us", "eu", "ap", "mortal"))
	views.until(t, "its end", ids("us", "eu", "ap"))
	if err := leaver.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	views.until(t, "the one that left gone", ids("eu", "ap"))

	// An instance is listed by its own region only.
	if _, err := us.r.Announce(in(eu.region, "eu"), kv.AnnounceOptions{}); err == nil {
		t.Error("a region announces an instance of another")
	}
	stray := in(eu.region, "eu")
	stray.Endpoints = map[string]string{events.NATS: "stray"}
	revision, err := us.plain(t).Register(t.Context(), stray, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := us.plain(t).Deregister(t.Context(), &stray, revision); err != nil {
		t.Fatal(err)
	}
	us.announce(t, in(us.region, "later"))
	views.until(t, "one that was announced after the stray one", ids("eu", "ap", "later"))
	for i, v := range views {
		for _, e := range v.get().Entries {
			if e.ID == "eu" && e.Endpoints[events.NATS] != "user.eu" {
				t.Errorf("from %s: %s is where %s said", regions[i], e.ID, us.region)
			}
		}
	}

	// Streams have kept to themselves.
	for _, s := range sites {
		js, err := jetstream.NewWithDomain(s.nc, s.region)
		if err != nil {
			t.Fatal(err)
		}
		for stream, others := range map[string]bool{"KV_proxima": false, "KV_proxima_" + s.region: true} {
			info, err := js.Stream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			full, err := info.Info(t.Context(), jetstream.WithSubjectFilter(">"))
			if err != nil {
				t.Fatal(err)
			}
			for subject := range full.State.Subjects {
				local := strings.Contains(subject, "."+s.region+".")
				if stray := strings.HasPrefix(subject, "$KV.proxima.") && s == us && strings.HasSuffix(subject, ".eu"); local == others && !stray {
					t.Errorf("%s of %s has %s", stream, s.region, subject)
				}
			}
		}
		if c := s.r.Counts(); c.Invalid != 0 || c.Forged != 0 {
			t.Errorf("%s has skipped messages: %+v", s.region, c)
		}
	}
}

// One region reads another and does nothing else to it.
func TestARegionCannotChangeAnother(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	const strange = `{"by":"another region"}`
	heard := make(chan *nats.Msg, 1000)
	for _, s := range sites {
		if _, err := s.nc.ChanSubscribe("proxima.sources."+s.region, heard); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range sites {
		for _, to := range sites {
			if from == to {
				continue
			}
			if err := from.nc.Publish("proxima.sources."+to.region, []byte(strange)); err != nil {
				t.Fatal(err)
			}
			js, err := jetstream.NewWithDomain(from.nc, to.region)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err = js.DeleteStream(ctx, "KV_proxima")
			cancel()
			if err == nil {
				t.Fatalf("%s deletes the bucket of %s", from.region, to.region)
			}
			if err := from.nc.Publish("$KV.proxima.inst.user."+to.region+".z.x", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, s := range sites {
		js, err := jetstream.NewWithDomain(s.nc, s.region)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), "KV_proxima")
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.GetLastMsgForSubject(t.Context(), "$KV.proxima.inst.user."+s.region+".z.x")
		if !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("%s keeps what was written in another region: %v", s.region, err)
		}
	}
	for range len(heard) {
		if msg := <-heard; string(msg.Data) == strange {
			t.Errorf("what another region says of sources is heard on %s", msg.Subject)
		}
	}
}

func TestAnEvacuationReachesAllRegionsWithinASecond(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	us, eu, ap := sites[0], sites[1], sites[2]
	views := watchAll(t, sites)
	for _, s := range sites {
		s.announce(t, in(s.region, s.region))
	}
	views.until(t, "one of each region", ids(regions...))
	evacuated := func(want bool) func(events.Snapshot) bool {
		return func(s events.Snapshot) bool {
			for _, e := range s.Entries {
				if e.Evacuated != (want && e.ID == eu.region) {
					return false
				}
			}
			return true
		}
	}
	for _, step := range []struct {
		by        *site
		evacuated bool
	}{{ap, true}, {us, false}, {eu, true}, {ap, false}} {
		began := time.Now()
		if _, err := step.by.r.Evacuate(t.Context(), events.Evacuation{Region: eu.region, Evacuated: step.evacuated}); err != nil {
			t.Fatal(err)
		}
		what := fmt.Sprintf("evacuated: %t, as %s says", step.evacuated, step.by.region)
		views.until(t, what, evacuated(step.evacuated))
		t.Logf("%s: everywhere after %v", what, time.Since(began).Round(time.Millisecond))
		// And for those that begin then.
		watchAll(t, sites).until(t, what+", at once", func(s events.Snapshot) bool {
			if len(s.Entries) == len(sites) && !evacuated(step.evacuated)(s) {
				t.Errorf("the first view does not know: %s", what)
			}
			return len(s.Entries) == len(sites)
		})
	}
}
