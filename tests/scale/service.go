package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

// service looks at services with many instances.
func service(ctx context.Context, s *stage) error {
	for _, n := range s.config.Large {
		if err := serviceOf(ctx, s, n); err != nil {
			return err
		}
		s.end()
	}
	return nil
}

func serviceOf(ctx context.Context, s *stage, count int) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, 8, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(count, 1, forever)
	if err := register(ctx, rs, all); err != nil {
		return err
	}
	var took []float64
	for range 5 {
		begin := time.Now()
		got, err := rs[0].Snapshot(ctx, all[0].Service)
		if err != nil {
			return err
		}
		if len(got) != 1 || len(got[0].Entries) != count {
			return fmt.Errorf("a snapshot of %d instances is not whole", count)
		}
		took = append(took, ms(time.Since(begin)))
	}
	s.figure(fmt.Sprintf("snapshot of a service of %d instances", count), median(took), "ms", atMost(1000))

	p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{{Kind: selectors, Callers: 1, Service: all[0].Service, Want: count}}})
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	if err := changes(ctx, s, rs, all, p); err != nil {
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
	limit := []option{}
	if count <= 10_000 {
		limit = []option{atMost(60)}
	}
	s.figure("  memory of a caller that picks from it (RSS)", float64(u.RSS)/mib, "MiB", limit...)
	s.figure("  its heap, for each instance", float64(st.Heap)/float64(count), "B")
	return picks(ctx, s, n, all[0].Service)
}

// changes measures how long it takes until a change is in the table.
func changes(ctx context.Context, s *stage, rs []*kv.Registry, all []member, p *child) error {
	i := 0
	if _, err := paced(ctx, 4*time.Second, 50, 1, func(ctx context.Context, _ int) error {
		i++
		return update(ctx, rs[0], &all[i*37%len(all)])
	}); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	var d spread
	if err := p.ask(question{Do: "delays"}, &d); err != nil {
		return err
	}
	s.figure("  from a change to the caller's table, p50", d.orNaN(d.P50), "ms")
	s.figure("  and p99", d.orNaN(d.P99), "ms")
	return nil
}

// picks measures what a pick costs.
func picks(ctx context.Context, s *stage, n *node, name string) error {
	nc, err := dial(n.url)
	if err != nil {
		return err
	}
	defer nc.Close()
	sel, err := choose(ctx, nc, nil)
	if err != nil {
		return err
	}
	defer func() { _ = sel.Close() }()
	pick := func() error {
		p, err := sel.Pick(ctx, name)
		if err == nil {
			p.Done(nil)
		}
		return err
	}
	if err := pick(); err != nil {
		return err
	}
	const many = 1_000_000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	for range many {
		if err := pick(); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	s.figure("  a pick and its end", float64(took.Nanoseconds())/many, "ns", atMost(1000))
	// What runs beside it allocates, too: a few hundred, not a million.
	s.figure("  allocations of it", float64((after.Mallocs-before.Mallocs)/many), "", none)
	return nil
}

// update announces a change of one instance.
func update(ctx context.Context, r *kv.Registry, m *member) error {
	m.Version = stamp()
	var err error
	m.revision, err = r.Register(ctx, m.Instance, m.revision)
	return err
}
