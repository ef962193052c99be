package nats_test

import (
	"context"
	"errors"
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

// named is an instance of a service in a region.
func named(service, region string) events.Instance {
	x := in(region, "of-"+region)
	x.Service = service
	return x
}

func TestRegionsSeeEachOthersDottedServices(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	us, eu := sites[0], sites[1]
	services := []string{"payments", "payments.user", "payments.us-east-1", "a.b.c.d.e.f.g.H"}
	for _, service := range services {
		for _, s := range []*site{us, eu} {
			s.announce(t, named(service, s.region))
		}
	}
	// What only another region may say: in the bucket of us, for the region eu.
	stray := named("payments.us-east-1", eu.region)
	stray.Endpoints = map[string]string{events.NATS: "stray"}
	if _, err := us.plain(t).Register(t.Context(), stray, 0); err != nil {
		t.Fatal(err)
	}
	for _, service := range services {
		for _, s := range sites {
			v := watchService(t, s.r, service)
			v.until(t, service+" of both regions seen from "+s.region, ids("of-us-east-1", "of-eu-west-1"))
			for _, e := range v.get().Entries {
				if e.Endpoints[events.NATS] == "stray" {
					t.Errorf("%s sees %s where %s says", s.region, e.Key(), us.region)
				}
			}
		}
	}
	for _, s := range sites {
		if c := s.r.Counts(); c.Invalid != 0 || c.Forged != 0 {
			t.Errorf("%s has skipped messages: %+v", s.region, c)
		}
	}
}

func TestAUserIsBoundToItsNamespace(t *testing.T) {
	t.Setenv("NATS_PAYMENTS_PASSWORD", "p")
	t.Setenv("NATS_PASSWORD", "a")
	opts, err := server.ProcessConfigFile("namespace.conf")
	if err != nil {
		t.Fatal(err)
	}
	ns := natstest.Start(t, func(o *server.Options) { o.Users = opts.Users })
	var refused sync.Map
	open := func(user, password string) (*nats.Conn, *kv.Registry) {
		nc := natstest.Connect(t, ns, nats.UserInfo(user, password), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused.Store(err.Error(), user) }))
		r, err := kv.Open(t.Context(), nc, kv.Options{OpTimeout: time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return nc, r
	}
	_, program := open("program", "a")
	nc, bound := open("payments", "p")
	v := watchService(t, program, "payments.user")
	a, err := bound.Announce(named("payments.user", "eu"), kv.AnnounceOptions{
		Logger: slog.New(slog.DiscardHandler), BeatInterval: 100 * time.Millisecond, Load: func() (events.Beat, bool) { return events.Beat{CPU: 0.5}, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	beats := make(chan *nats.Msg, 64)
	other, _ := open("program", "a")
	if _, err := other.ChanSubscribe("proxima.beat.payments=.=user.>", beats); err != nil {
		t.Fatal(err)
	}
	v.until(t, "the instance", v.all(1))
	<-beats
	if _, err := bound.Register(t.Context(), named("payments.v1.Ledger", "eu"), 0); err != nil {
		t.Errorf("a namespace in it: %v", err)
	}
	refused.Range(func(what, user any) bool {
		t.Errorf("%v may not: %v", user, what)
		return true
	})
	for _, service := range []string{"payments", "user", "payments-v2.user", "orders.payments", "orders.user"} {
		if _, err := bound.Register(t.Context(), named(service, "eu"), 0); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("an instance of %s: %v", service, err)
		}
	}

	// Calls through a router, here an answer to all.
	if _, err := other.Subscribe("proxima.route.>", func(msg *nats.Msg) { _ = msg.Respond(nil) }); err != nil {
		t.Fatal(err)
	}
	if err := other.Flush(); err != nil {
		t.Fatal(err)
	}
	for service, allowed := range map[string]bool{"payments.user": true, "payments.v1.Ledger": true, "payments": false, "user": false, "orders.user": false} {
		_, err := nc.Request("proxima.route."+service, nil, 300*time.Millisecond)
		if (err == nil) != allowed {
			t.Errorf("a call of %s: %v", service, err)
		}
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Errorf("leaves: %v", err)
	}
	v.until(t, "it gone", v.all(0))
}

// Earlier versions read inst.*.<region>.> of each other, which is no dotted service.
func TestRegionsOfAnEarlierVersionAreReadAnewForDottedServices(t *testing.T) {
	t.Parallel()
	sites := startRegions(t, kv.Options{})
	for _, s := range sites {
		s.announce(t, in(s.region, s.region))
	}
	views := watchAll(t, sites)
	views.until(t, "one of each region", ids(regions...))
	for _, s := range sites {
		s.restoreEarlier(t)
	}
	for _, s := range sites {
		s.announce(t, named("payments.user", s.region))
	}
	// A program of this version starts, one region after the other.
	for _, s := range sites {
		o := kv.Options{Domain: s.region, Regions: regions, Logger: slog.New(slog.DiscardHandler)}
		var r *kv.Registry
		testkit.Retry(t, "the registry of "+s.region+" is open", func(ctx context.Context) (err error) {
			r, err = kv.Open(ctx, s.nc, o)
			return err
		})
		var keeping sync.WaitGroup
		keeping.Go(func() { _ = r.KeepSources(t.Context()) })
		t.Cleanup(keeping.Wait)
	}
	for _, s := range sites {
		v := watchService(t, s.r, "payments.user")
		v.until(t, "the dotted service of all regions seen from "+s.region, ids("of-us-east-1", "of-eu-west-1", "of-ap-south-1"))
	}
	views.until(t, "one of each region", ids(regions...))
	for i, v := range views {
		if n := v.fewest(); n < len(regions) {
			t.Errorf("%s saw %d of %d instances meanwhile", regions[i], n, len(regions))
		}
	}
}

// restoreEarlier makes of what a region reads and gives what an earlier version made.
func (s *site) restoreEarlier(t *testing.T) {
	t.Helper()
	js, err := jetstream.NewWithDomain(s.nc, s.region)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.Stream(t.Context(), "KV_proxima")
	if err != nil {
		t.Fatal(err)
	}
	for _, reader := range regions {
		if reader == s.region {
			continue
		}
		consumer, err := bucket.PushConsumer(t.Context(), "region_"+reader)
		if err != nil {
			t.Fatal(err)
		}
		config := consumer.CachedInfo().Config
		config.FilterSubjects = []string{"$KV.proxima.inst.*." + s.region + ".>", "$KV.proxima.evacuate.>"}
		if _, err := bucket.UpdatePushConsumer(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	others, err := js.Stream(t.Context(), "KV_proxima_"+s.region)
	if err != nil {
		t.Fatal(err)
	}
	config := others.CachedInfo().Config
	for _, source := range config.Sources {
		region := strings.TrimSuffix(strings.TrimPrefix(source.External.APIPrefix, "$JS."), ".API")
		transforms := []jetstream.SubjectTransformConfig{{
			Source: "$KV.proxima.inst.*." + region + ".>", Destination: "$KV.proxima_" + s.region + ".inst.{{wildcard(1)}}." + region + ".>",
		}}
		for _, transform := range source.SubjectTransforms {
			if !strings.HasPrefix(transform.Source, "$KV.proxima.inst.") {
				transforms = append(transforms, transform)
			}
		}
		source.SubjectTransforms = transforms
	}
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}
