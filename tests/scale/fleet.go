package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

const (
	mib = 1 << 20
	// forever is a lease that does not end while a section runs, for instances
	// that are not renewed.
	forever = 20 * time.Minute
)

// fleet lists many instances of many services, and reads them.
func fleet(ctx context.Context, s *stage) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, 16, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(s.config.Instances, s.config.Services, forever)
	before, err := n.usage()
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := register(ctx, rs, all); err != nil {
		return err
	}
	took := time.Since(begin)
	after, err := n.usage()
	if err != nil {
		return err
	}
	count := float64(len(all))
	s.figure("registrations", count/took.Seconds(), "/s", etcd(6417), atLeast(6417))
	s.figure("  CPU of the server for each", float64((after.CPU-before.CPU).Microseconds())/count, "µs")
	if err := readAll(ctx, s, n, len(all)); err != nil {
		return err
	}
	if err := readOne(ctx, s, rs[0]); err != nil {
		return err
	}
	if after, err = n.usage(); err != nil {
		return err
	}
	memory := []option{}
	if len(all) == 100_000 {
		memory = []option{etcd(265)}
	}
	s.figure("memory of the server (RSS)", float64(after.RSS)/mib, "MiB", memory...)
	s.figure("  for each instance and its lease", float64(after.RSS-before.RSS)/count, "B")
	return nil
}

// readAll has callers, one after another, watch everything.
func readAll(ctx context.Context, s *stage, n *node, count int) error {
	var took, heap, rss, cpu []float64
	before, err := n.usage()
	if err != nil {
		return err
	}
	const times = 3
	for range times {
		p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{{Kind: views, Callers: 1, Want: count}}})
		if err != nil {
			return err
		}
		var began started
		if err := p.ask(question{Do: "start"}, &began); err != nil {
			return err
		}
		u, err := p.usage()
		if err != nil {
			return err
		}
		var st state
		if err := p.ask(question{Do: "state"}, &st); err != nil {
			return err
		}
		took, heap, rss, cpu = append(took, began.AllMS), append(heap, float64(st.Heap)), append(rss, float64(u.RSS)), append(cpu, ms(u.CPU))
		p.end()
	}
	var limit []option
	if count == 100_000 {
		limit = []option{etcd(622), atMost(622)}
	}
	s.figure("a caller that watches everything knows it after", median(took), "ms", limit...)
	after, err := n.usage()
	if err != nil {
		return err
	}
	s.figure("  CPU of the server for it", ms(after.CPU-before.CPU)/times, "ms")
	s.figure("  CPU of the caller", median(cpu), "ms")
	s.figure("  its memory (RSS)", median(rss)/mib, "MiB")
	s.figure("  its heap, for each instance", median(heap)/float64(count), "B")
	return nil
}

// readOne reads one service of many.
func readOne(ctx context.Context, s *stage, r *kv.Registry) error {
	var d delays
	for i := range 50 {
		begin := time.Now()
		got, err := r.Snapshot(ctx, serviceName(i%s.config.Services))
		if err != nil {
			return err
		}
		if len(got) != 1 {
			return fmt.Errorf("%d snapshots of one service", len(got))
		}
		d.add(time.Since(begin))
	}
	s.figure("snapshot of one service", d.take().P50, "ms")
	return nil
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// announce keeps many announcements in one process.
func announce(ctx context.Context, s *stage) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, 4, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(s.config.Announcements, min(s.config.Services, s.config.Announcements), 15*time.Second)
	listed := make(chan struct{}, len(all))
	running := make([]*kv.Announcement, 0, len(all))
	leave := func() {
		var g errgroup.Group
		for _, a := range running {
			g.Go(func() error { return a.Leave(ctx) })
		}
		_ = g.Wait() // a lease that could not be given back ends by itself
	}
	defer leave()
	begin := time.Now()
	for i := range all {
		var was bool
		a, err := rs[i%len(rs)].Announce(all[i].Instance, kv.AnnounceOptions{OnState: func(st kv.State) {
			if st.Registered() && !was {
				was = true
				listed <- struct{}{}
			}
		}})
		if err != nil {
			return err
		}
		running = append(running, a)
	}
	for range all {
		select {
		case <-listed:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Minute):
			return fmt.Errorf("of %d announcements no other is registered after a minute", len(all))
		}
	}
	s.figure(fmt.Sprintf("%d announcements of one process", len(all)), float64(len(all))/time.Since(begin).Seconds(), "/s", etcd(6417), atLeast(6417))

	time.Sleep(5 * time.Second) // the first heartbeats have come
	server, err := n.usage()
	if err != nil {
		return err
	}
	own, err := usageOf(os.Getpid())
	if err != nil {
		return err
	}
	time.Sleep(s.config.Steady)
	server2, err := n.usage()
	if err != nil {
		return err
	}
	own2, err := usageOf(os.Getpid())
	if err != nil {
		return err
	}
	for i := range running {
		if st := running[i].State(); !st.Registered() || st.Err != nil {
			return fmt.Errorf("announcement %s is %s: %w", st.Instance, st.Phase, st.Err)
		}
	}
	beats := float64(len(all)) / 5 * s.config.Steady.Seconds()
	s.figure("  CPU of the process for each heartbeat", float64((own2.CPU-own.CPU).Microseconds())/beats, "µs")
	s.figure("  CPU of the server for each heartbeat", float64((server2.CPU-server.CPU).Microseconds())/beats, "µs")
	s.figure("  memory of the process (RSS), for each", float64(own2.RSS)/float64(len(all)), "B")
	return nil
}
