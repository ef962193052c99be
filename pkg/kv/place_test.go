package kv_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// As selector.New does for a caller.
func TestAnInstanceWithoutAPlaceIsAnnouncedWhereItsEnvironmentSays(t *testing.T) {
	t.Setenv("PROXIMA_REGION", "eu")
	t.Setenv("PROXIMA_ZONE", "eu-a")
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		in := instance("a")
		in.Location = topology.Location{}
		if got := f.announce(f.r, in, kv.AnnounceOptions{}).Instance().Location; got != (topology.Location{Region: "eu", Zone: "eu-a"}) {
			t.Errorf("it is announced in %+v", got)
		}
		// A location that is given wins as a whole.
		in.ID, in.Location = "b", topology.Location{Region: "us"}
		if got := f.announce(f.r, in, kv.AnnounceOptions{}).Instance().Location; got != (topology.Location{Region: "us"}) {
			t.Errorf("it is announced in %+v", got)
		}
	})
}

// warnings announces instances and returns what was warned of.
func warnings(t *testing.T, f *fixture, all ...events.Instance) string {
	t.Helper()
	var log testkit.Output
	for _, in := range all {
		f.announce(f.r, in, kv.AnnounceOptions{Logger: log.Logger(slog.LevelWarn)})
	}
	return log.String()
}

func TestAZoneWithoutARegionIsWarnedOfOnce(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		a, b := instance("a"), instance("b")
		if text := warnings(t, setup(t), a); text != "" {
			t.Errorf("with a region: %s", text)
		}
		a.Location, b.Location = topology.Location{Zone: "a"}, topology.Location{Zone: "b"}
		if text := warnings(t, setup(t), a, b); strings.Count(text, "the region is unknown") != 1 || strings.Count(text, "\n") != 1 || !strings.Contains(text, "zone=a") {
			t.Errorf("logged: %s", text)
		}
	})
}

func TestALoopbackAddressIsWarnedOfOnceWhenNATSIsElsewhere(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		a, b := instance("a"), instance("b")
		for _, in := range []*events.Instance{&a, &b} {
			in.Endpoints = map[string]string{events.HTTP: "localhost:80"}
		}
		for _, tt := range []struct {
			servers []string
			warns   int
		}{
			{nil, 0}, // in this process
			{[]string{"nats://127.0.0.1:4222"}, 0},
			{[]string{"nats://10.0.0.5:4222", "localhost"}, 0},
			{[]string{"nats://10.0.0.5:4222", "nats.example"}, 1},
			{[]string{"tls://[fd00::1]:4222"}, 1},
		} {
			f := setup(t)
			if tt.servers != nil {
				o := &f.r.Conn().Opts
				o.InProcessServer, o.Url, o.Servers = nil, "", tt.servers
			}
			if text := warnings(t, f, a, b); strings.Count(text, "endpoint=") != tt.warns || tt.warns > 0 && !strings.Contains(text, "http=localhost:80") {
				t.Errorf("NATS at %q: logged %s", tt.servers, text)
			}
		}
	})
}

func TestItIsLoggedOnceWhereInstancesAre(t *testing.T) {
	zone := rand.Text() // the process logs each place once, however often this test runs
	t.Setenv("PROXIMA_ZONE", zone)
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		var log testkit.Output
		for _, id := range []string{"a", "b"} {
			in := instance(id)
			in.Location = topology.Location{}
			a, err := f.r.Announce(in, kv.AnnounceOptions{Logger: log.Logger(slog.LevelInfo)})
			if err != nil {
				t.Fatal(err)
			}
			registered(t, a, time.Second)
			if err := a.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if text := log.String(); strings.Count(text, "location=_/"+zone) != 1 || !strings.Contains(text, "variables=PROXIMA_ZONE") {
			t.Errorf("logged: %s", text)
		}
	})
}

func TestReadyWaitsUntilTheInstanceIsListed(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		down := errors.New("not yet")
		began := time.Now()
		a := f.announce(f.r, instance("a"), kv.AnnounceOptions{Check: func(context.Context) error {
			if time.Since(began) < 3*time.Second {
				return down
			}
			return nil
		}})
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Ready(soon); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, down) || !strings.Contains(err.Error(), "checking") {
			t.Errorf("after a second: %v", err)
		}
		if err := a.Ready(t.Context()); err != nil || !a.State().Registered() {
			t.Errorf("%v, %+v", err, a.State())
		}
		within(t, time.Since(began), 3*time.Second, 4*time.Second)
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := a.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "left") {
			t.Errorf("after it has left: %v", err)
		}
	})
}
