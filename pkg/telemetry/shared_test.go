package telemetry_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestCountsOnceWhatSelectorsShare(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		nc := natstest.Connect(t, natstest.Start(t))
		r, err := kv.Open(t.Context(), nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		in := *instance("u", "a", "10.0.0.1:80").Instance
		a, err := r.Announce(in, kv.AnnounceOptions{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Leave(context.Background()) }()
		m := newMetrics(t)
		var all []*selector.Selector
		var stops []func()
		for _, strategy := range []selector.Strategy{selector.P2C, selector.Random} {
			sel, err := selector.New(t.Context(), nc, selector.Options{
				Source: r, Strategy: strategy, Location: topology.Location{Region: in.Location.Region, Zone: in.Location.Zone},
				Probe: selector.Probe{Kind: selector.ProbeNone}, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sel.Close() }()
			all, stops = append(all, sel), append(stops, m.Selector(sel))
			p, err := sel.PickFor(t.Context(), selector.Request{Service: in.Service, Wait: true})
			if err != nil {
				t.Fatal(err)
			}
			p.Done(nil)
		}
		names := []string{`proxima_picks_total{circle="zone"`, `proxima_instances{circle="zone"`, "proxima_probes"}
		want := []string{`proxima_instances{circle="zone",service="user"} 1`, `proxima_picks_total{circle="zone",service="user"} 2`, "proxima_probes_total 0"}
		m.want(t, "of two", names, want)
		stops[0]()
		_ = all[0].Close()
		m.want(t, "of one", names, want)
		stops[1]()
		m.want(t, "of none", names, want[1:2])
	})
}
