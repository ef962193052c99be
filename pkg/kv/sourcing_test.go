package kv_test

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// However many announcers and routers keep the sources of a region, one of them looks.
func TestOneKeeperLooksForAll(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t) // eu is out of reach
		const keepers, minute = 20, time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		var keeping sync.WaitGroup
		defer keeping.Wait()
		defer cancel()
		for range keepers {
			r := open(t, natstest.Connect(t, f.ns), kv.Options{Domain: "us", Regions: []string{"us", "eu"}})
			keeping.Go(func() { _ = r.KeepSources(ctx) })
		}
		looks := make(chan *nats.Msg, 10_000)
		if _, err := f.nc.ChanSubscribe("proxima.sources.us", looks); err != nil {
			t.Fatal(err)
		}
		time.Sleep(minute)
		begun, found := 0, 0
		for range len(looks) {
			var told struct {
				Regions map[string]struct{ Away bool }
			}
			if err := json.Unmarshal((<-looks).Data, &told); err != nil {
				t.Fatal(err)
			}
			if len(told.Regions) == 0 {
				begun++
				continue
			}
			found++
			if x := told.Regions["eu"]; !x.Away {
				t.Fatalf("%+v", told)
			}
		}
		if found < 180 || found > 400 || begun > 3*found {
			t.Errorf("in a minute %d looks, %d wanted to", found, begun)
		}
		time.Sleep(10 * minute) // it is away for long
		for range len(looks) {
			<-looks
		}
		time.Sleep(minute)
		if n := len(looks); n < 30 || n > 300 {
			t.Errorf("in a minute %d messages", n)
		}
	})
}

// lookers counts the looks at other regions.
func (f *fixture) lookers() (count func() int) { return f.listen("proxima.sources.us") }

func TestAnnouncementsKeepTheSourcesAndWatchesDoNot(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setupRegion(t)
		looks := f.lookers()
		v := watch(t, f.r, "user")
		time.Sleep(time.Minute)
		if n := looks(); n != 0 {
			t.Errorf("%d looks of a registry that only watches", n)
		}
		a := f.announce(f.r, at("a", "us", "us-a"), kv.AnnounceOptions{})
		v.until("listed", time.Second, count(1))
		time.Sleep(time.Minute)
		if looks() == 0 {
			t.Error("an announcement does not look after the sources")
		}
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := looks()
		time.Sleep(time.Minute)
		if n := looks() - before; n != 0 {
			t.Errorf("%d looks after it has left", n)
		}
	})
}

// A caller with regions, where all is made: it asks for nothing that changes
// streams or consumers.
func TestACallerNeedsNoRightToChangeTheSources(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		change := []string{"STREAM.CREATE.>", "STREAM.UPDATE.>", "STREAM.DELETE.>", "CONSUMER.CREATE.>", "CONSUMER.DURABLE.>", "CONSUMER.RESET.>", "CONSUMER.INFO.*.region_us"}
		var deny []string
		for _, subject := range change {
			deny = append(deny, "$JS.*.API."+subject)
		}
		ns := natstest.Start(t, domain("us"), func(o *server.Options) {
			o.Users = []*server.User{
				{Username: "announcer"},
				{Username: "caller", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: deny}}},
			}
		})
		both := kv.Options{Domain: "us", Regions: []string{"us", "eu"}}
		announcer := natstest.Connect(t, ns, silent, nats.UserInfo("announcer", ""))
		f := &fixture{t, ns, announcer, open(t, announcer, both)}
		f.announce(f.r, at("a", "us", "us-a"), kv.AnnounceOptions{})

		var refused atomic.Int64
		caller := natstest.Connect(t, ns, nats.UserInfo("caller", ""), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			refused.Add(1)
			t.Logf("refused: %v", err)
		}))
		began := time.Now()
		r := open(t, caller, both)
		if d := time.Since(began); d > 100*time.Millisecond {
			t.Errorf("it takes %v to open the registry", d)
		}
		v := watch(t, r, "user")
		v.until("listed", 5*time.Second, count(1))
		time.Sleep(10 * time.Minute)
		if n := refused.Load(); n != 0 {
			t.Errorf("%d requests were refused", n)
		}
	})
}
