package main

import (
	"context"
	"fmt"
	"time"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

const (
	leaseTTL        = 15 * time.Second
	heartbeatEvery  = leaseTTL / 3
	beatConnections = 200
)

// heartbeats renews many leases while others watch.
func heartbeats(ctx context.Context, s *stage) error {
	for _, watchers := range s.config.Watchers {
		if err := heartbeatsWith(ctx, s, watchers); err != nil {
			return err
		}
		s.end()
	}
	return nil
}

func heartbeatsWith(ctx context.Context, s *stage, watchers int) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	connections := min(beatConnections, s.config.Leases)
	rs, err := s.registries(ctx, n.url, connections, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	services := max(1, s.config.Leases/10)
	all := fleetOf(s.config.Leases, services, forever)
	if err := register(ctx, rs, all); err != nil {
		return err
	}
	if watchers > 0 {
		p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{{Kind: views, Callers: watchers, Services: services}}})
		if err != nil {
			return err
		}
		var began started
		if err := p.ask(question{Do: "start"}, &began); err != nil {
			return err
		}
	}
	for i := range all {
		all[i].TTL = leaseTTL
	}
	before, err := n.usage()
	if err != nil {
		return err
	}
	begin := time.Now()
	turn := make([]int, connections)
	rate := float64(len(all)) / heartbeatEvery.Seconds()
	made, err := paced(ctx, s.config.Steady, int(rate), connections, func(ctx context.Context, w int) error {
		mine := (len(all) - w + connections - 1) / connections
		m := &all[w+turn[w]%mine*connections]
		turn[w]++
		return rs[w].Renew(ctx, &m.Instance, m.revision)
	})
	if err != nil {
		return err
	}
	wall := time.Since(begin)
	after, err := n.usage()
	if err != nil {
		return err
	}
	used := after.CPU - before.CPU
	s.figure(fmt.Sprintf("CPU of the server for each heartbeat, %d watching connections", watchers), float64(used.Microseconds())/float64(made), "µs")
	s.figure(fmt.Sprintf("  share of a processor for %d leases, %.0f heartbeats/s", len(all), float64(made)/wall.Seconds()),
		100*used.Seconds()/wall.Seconds(), "%")
	return nil
}
