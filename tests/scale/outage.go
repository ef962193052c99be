package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

// shortTTL is half an outage: a lease that ends in it for sure.
func (c *config) shortTTL() time.Duration {
	return max(2*time.Second, (c.Outage / 2).Truncate(time.Second))
}

// outage kills and freezes the server while instances live.
func outage(ctx context.Context, s *stage) error {
	for _, o := range []struct {
		name   string
		memory bool
		freeze bool
		etcd   []float64 // caught up, ms; removed, of a hundred
	}{
		{"killed", false, false, []float64{4900, 20}},
		{"killed, and its memory is lost", true, false, nil},
		{"frozen", false, true, []float64{4900, 100}},
	} {
		if o.freeze {
			o.etcd = o.etcd[1:] // how long that took is not known
		}
		if err := outageOf(ctx, s, o.name, o.memory, o.freeze, o.etcd); err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		s.end()
	}
	return nil
}

func outageOf(ctx context.Context, s *stage, name string, memory, freeze bool, peer []float64) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, s.config.Live, kv.Options{Memory: memory})
	if err != nil {
		return err
	}
	ttl := s.config.shortTTL()
	all := fleetOf(s.config.Live, 1, ttl)
	var leaving errgroup.Group
	defer func() { _ = leaving.Wait() }()
	for i := range all {
		a, err := rs[i].Announce(all[i].Instance, kv.AnnounceOptions{})
		if err != nil {
			return err
		}
		defer leaving.Go(func() error { return a.Leave(ctx) })
	}
	p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{
		{Kind: views, Callers: s.config.Live, Service: all[0].Service, Want: len(all)},
	}})
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	time.Sleep(ttl / 2) // every lease has been renewed, and they are not in step
	back, err := n.away(ctx, s.config.Outage, freeze)
	if err != nil {
		return err
	}
	fresh, err := s.registries(ctx, n.url, 1, kv.Options{Memory: memory})
	if err != nil {
		return err
	}
	took, err := canary(ctx, fresh[0], p, all[0].Service, back)
	if err != nil {
		return err
	}
	time.Sleep(3 * ttl) // until every instance that would be taken for dead has been
	var st state
	if err := p.ask(question{Do: "state"}, &st); err != nil {
		return err
	}
	var caught, removed []option
	if s.config.Outage != 10*time.Second {
		peer = nil // what is known of etcd is for that
	}
	if len(peer) == 2 {
		caught = []option{etcd(peer[0])}
	}
	if len(peer) > 0 && s.config.Live == 100 {
		removed = []option{etcd(peer[len(peer)-1])}
	}
	s.figure(fmt.Sprintf("server %s for %v, ttl %v: %d watchers have caught up after", name, s.config.Outage, ttl, s.config.Live), took, "ms", append(caught, atMost(1000))...)
	s.figure(fmt.Sprintf("  live ones removed, of %d", s.config.Live), float64(st.Removed)/float64(s.config.Live), "", append(removed, none)...)
	s.figure("  suspect after three ttls", float64(st.Suspects)/float64(s.config.Live), "", none)
	return nil
}

// away takes the server away for a time, and returns when it was back.
func (n *node) away(ctx context.Context, d time.Duration, freeze bool) (time.Time, error) {
	if freeze {
		if err := n.freeze(); err != nil {
			return time.Time{}, err
		}
	} else {
		n.kill()
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	if freeze {
		return time.Now(), n.thaw()
	}
	err := n.boot()
	return time.Now(), err
}
