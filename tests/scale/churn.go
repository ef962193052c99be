package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// writers make changes, each to instances of its own.
const writers = 16

// churn changes what is listed, all the time, and compares in the end.
func churn(ctx context.Context, s *stage) error {
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, writers, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	large := fleetOf(s.config.Large[0], 1, forever)
	small := fleetOf(2000, 200, forever)
	for i := range large {
		large[i].Service = "large"
	}
	if err := register(ctx, rs, large); err != nil {
		return err
	}
	if err := register(ctx, rs, small); err != nil {
		return err
	}
	p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{
		{Kind: views, Callers: 4, Want: len(large) + len(small)}, // the first of them is the slow one
		{Kind: selectors, Callers: 4, Service: "large", Want: len(large)},
		{Kind: views, Callers: 20, Services: 20},
	}})
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	before, err := usages(n, p)
	if err != nil {
		return err
	}
	begin := time.Now()
	recovered := make(chan result, 1)
	go func() {
		time.Sleep(s.config.ChurnTime / 6)
		var took float64
		err := p.ask(question{Do: "block", For: min(s.config.Block, s.config.ChurnTime/2)}, &took)
		recovered <- result{took, err}
	}()
	made, err := paced(ctx, s.config.ChurnTime, s.config.Changes, writers, func(ctx context.Context, w int) error {
		all := small
		if rand.IntN(2) == 0 {
			all = large
		}
		mine := (len(all) - w + writers - 1) / writers
		return change(ctx, rs[w], &all[w+rand.IntN(mine)*writers])
	})
	wall := time.Since(begin)
	slow := <-recovered
	if err != nil || slow.err != nil {
		return fmt.Errorf("changes: %w, slow caller: %w", err, slow.err)
	}
	after, err := usages(n, p)
	if err != nil {
		return err
	}
	s.figure("changes", float64(made)/wall.Seconds(), "/s")
	s.figure("  a slow caller is let go and knows the newest after", slow.ms, "ms", atMost(2000))
	var d spread
	if err := p.ask(question{Do: "delays"}, &d); err != nil {
		return err
	}
	s.figure("  from a change to the snapshot or table, p50", d.orNaN(d.P50), "ms")
	s.figure("  and p99", d.orNaN(d.P99), "ms")
	s.figure("  processors busy: the server", float64(after[0].CPU-before[0].CPU)/float64(wall), "")
	s.figure("  28 callers in one process", float64(after[1].CPU-before[1].CPU)/float64(wall), "")
	return compareWith(s, p, 28)
}

type result struct {
	ms  float64
	err error
}

// change is one of what happens to instances.
func change(ctx context.Context, r *kv.Registry, m *member) error {
	switch n := rand.IntN(10); {
	case m.revision == 0:
	case n < 2:
		rev := m.revision
		m.revision = 0
		return r.Deregister(ctx, &m.Instance, rev)
	case n < 4:
		m.Status = []events.Status{events.Up, events.Draining, events.NotReady}[rand.IntN(3)]
	case n < 6:
		m.Weight = 1 + rand.IntN(200)
	}
	return update(ctx, r, m)
}

// compareWith holds what all callers know against the bucket.
func compareWith(s *stage, p *child, callers int) error {
	var c compared
	if err := p.ask(question{Do: "compare", For: 30 * time.Second}, &c); err != nil {
		return err
	}
	if c.Callers != callers || c.Entries == 0 {
		return fmt.Errorf("%d callers with %d entries were compared, want %d", c.Callers, c.Entries, callers)
	}
	s.figure(fmt.Sprintf("  entries of %d compared that are not as in the bucket", c.Entries), float64(c.Wrong), "", none)
	s.figure("  after the last change it took until then", c.SettleMS, "ms")
	if c.Wrong > 0 {
		return fmt.Errorf("%d entries are not as in the bucket: %s", c.Wrong, c.Example)
	}
	return nil
}

func usages(n *node, p *child) ([2]usage, error) {
	server, err := n.usage()
	if err != nil {
		return [2]usage{}, err
	}
	callers, err := p.usage()
	return [2]usage{server, callers}, err
}

// fanout changes one service that very many watch.
func fanout(ctx context.Context, s *stage) error {
	const instances, rate = 500, 200
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, writers, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(instances, 1, forever)
	if err := register(ctx, rs, all); err != nil {
		return err
	}
	whole := min(20, s.config.Fanout)
	p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{
		{Kind: views, Callers: whole, Service: all[0].Service, Want: instances, Patient: true},
		{Kind: plain, Callers: s.config.Fanout - whole, Service: all[0].Service, Patient: true},
	}})
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	before, err := usages(n, p)
	if err != nil {
		return err
	}
	begin := time.Now()
	made, err := paced(ctx, s.config.ChurnTime, rate, writers, func(ctx context.Context, w int) error {
		mine := (len(all) - w + writers - 1) / writers
		return update(ctx, rs[w], &all[w+rand.IntN(mine)*writers])
	})
	if err != nil {
		return err
	}
	wall := time.Since(begin)
	after, err := usages(n, p)
	if err != nil {
		return err
	}
	var d spread
	if err := p.ask(question{Do: "delays"}, &d); err != nil {
		return err
	}
	s.figure(fmt.Sprintf("%.0f changes/s seen by %d connections, p50", float64(made)/wall.Seconds(), s.config.Fanout), d.orNaN(d.P50), "ms", atMost(30))
	s.figure("  and p99", d.orNaN(d.P99), "ms", atMost(250))
	s.figure("  processors busy: the server", float64(after[0].CPU-before[0].CPU)/float64(wall), "", atMost(1.2))
	s.figure("  all callers in one process", float64(after[1].CPU-before[1].CPU)/float64(wall), "")
	time.Sleep(time.Second)
	var st state
	if err := p.ask(question{Do: "state"}, &st); err != nil {
		return err
	}
	s.figure("  changes lost on the way to plain connections", float64(made*(s.config.Fanout-whole))-float64(st.Received), "", none)
	return compareWith(s, p, whole)
}
