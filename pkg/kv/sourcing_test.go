package kv_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

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
