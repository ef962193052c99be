package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// expiry lets the leases of a whole service end together.
func expiry(ctx context.Context, s *stage) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, 16, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(s.config.Expiring, 1, forever)
	if err := register(ctx, rs, all); err != nil {
		return err
	}
	p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{{Kind: views, Callers: 1, Service: all[0].Service, Want: len(all)}}})
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	nc, err := dial(n.url)
	if err != nil {
		return err
	}
	s.later(nc.Close)
	sel, err := choose(ctx, nc, nil)
	if err != nil {
		return err
	}
	s.later(func() { _ = sel.Close() })
	heard := make(chan time.Time, len(all))
	if _, err := nc.Subscribe(kv.DefaultBucket+".inst.>", func(*nats.Msg) {
		select {
		case heard <- time.Now():
		default: // a lease fires again every ttl
		}
	}); err != nil {
		return err
	}
	if err := endLeases(ctx, rs, all, 4*time.Second); err != nil {
		return err
	}
	first, last, slowest, err := stormOf(ctx, sel, all[0].Service, heard, len(all))
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		var st state
		if err := p.ask(question{Do: "count"}, &st); err != nil {
			return err
		}
		if st.Suspects == len(all) {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("of %d expired instances a caller knows of %d", len(all), st.Suspects)
		}
	}
	s.figure(fmt.Sprintf("%d leases end: all removals are sent within", len(all)), ms(last.Sub(first)), "ms")
	s.figure("  after the last of them a caller has taken in all after", ms(time.Since(last)), "ms", atMost(2000))
	s.figure("  meanwhile a pick took, p99", slowest.orNaN(slowest.P99)*1000, "µs", atMost(50))
	return nil
}

// endLeases renews all leases for the last time.
func endLeases(ctx context.Context, rs []*kv.Registry, all []member, ttl time.Duration) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := len(rs) * perConnection
	for w := range workers {
		g.Go(func() error {
			for i := w; i < len(all); i += workers {
				m := &all[i]
				m.TTL = ttl
				if err := rs[w%len(rs)].Renew(ctx, &m.Instance, m.revision); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// stormOf waits until all removals were heard, and picks all the while.
func stormOf(ctx context.Context, sel *selector.Selector, service string, heard <-chan time.Time, count int) (first, last time.Time, took spread, err error) {
	var d delays
	for n := 0; n < count; {
		select {
		case at := <-heard:
			if n == 0 {
				first = at
			}
			n, last = n+1, at
			continue
		case <-ctx.Done():
			return first, last, took, ctx.Err()
		default:
		}
		begin := time.Now()
		p, err := sel.Pick(ctx, service)
		if err != nil {
			return first, last, took, err
		}
		p.Done(nil)
		if n > 0 {
			d.add(time.Since(begin))
		}
		time.Sleep(50 * time.Microsecond)
	}
	return first, last, d.take(), nil
}
