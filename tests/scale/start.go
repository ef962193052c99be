package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/pkg/kv"
)

// start starts many callers at once.
func start(ctx context.Context, s *stage) error {
	const instances = 300
	n, err := s.server()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, n.url, 8, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(instances, 1, forever)
	for i := range all {
		all[i].Service = "called"
	}
	// And a tenth of the fleet, which no caller asks for.
	if err := register(ctx, rs, append(fleetOf(max(s.config.Instances/10, s.config.Services), s.config.Services, forever), all...)); err != nil {
		return err
	}
	p, err := s.callers(ctx, callersConfig{URLs: []string{n.url}, Groups: []group{
		{Kind: selectors, Callers: s.config.Callers, Service: all[0].Service, Want: instances, Patient: true},
	}})
	if err != nil {
		return err
	}
	before, err := usages(n, p)
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	after, err := usages(n, p)
	if err != nil {
		return err
	}
	var st state
	if err := p.ask(question{Do: "state"}, &st); err != nil {
		return err
	}
	s.figure(fmt.Sprintf("%d callers start at once and all pick after", s.config.Callers), began.AllMS, "ms", atMost(3000))
	s.figure("  one of them, p50", began.Each.P50, "ms")
	s.figure("  p99", began.Each.P99, "ms")
	s.figure("  snapshots read", float64(st.Snapshots), "", atMost(float64(s.config.Callers)))
	s.figure("  CPU of the server for each caller", ms(after[0].CPU-before[0].CPU)/float64(s.config.Callers), "ms")
	s.figure("  CPU of each caller", ms(after[1].CPU-before[1].CPU)/float64(s.config.Callers), "ms")
	return nil
}

// storm kills one of three servers, so that a third of the callers reconnect
// at once.
func storm(ctx context.Context, s *stage) error {
	count := s.config.Callers * 3 / 2
	nodes, err := s.cluster()
	if err != nil {
		return err
	}
	rs, err := s.registries(ctx, nodes[0].url, 4, kv.Options{Memory: true})
	if err != nil {
		return err
	}
	all := fleetOf(100, 1, forever)
	if err := register(ctx, rs, all); err != nil {
		return err
	}
	victim, leader, err := follower(ctx, nodes)
	if err != nil {
		return err
	}
	p, err := s.callers(ctx, callersConfig{URLs: []string{nodes[0].url, nodes[1].url, nodes[2].url}, Groups: []group{
		{Kind: views, Callers: count, Service: all[0].Service, Want: len(all)},
	}})
	if err != nil {
		return err
	}
	var began started
	if err := p.ask(question{Do: "start"}, &began); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // every client knows every server
	writer, err := s.registries(ctx, leader.url, 1, kv.Options{})
	if err != nil {
		return err
	}
	var st state
	if err := p.ask(question{Do: "state"}, &st); err != nil {
		return err
	}
	snapshots := st.Snapshots
	before, err := leader.usage()
	if err != nil {
		return err
	}
	at := time.Now()
	victim.kill()
	took, err := canary(ctx, writer[0], p, all[0].Service, at)
	if err != nil {
		return err
	}
	time.Sleep(3*time.Second - min(time.Since(at), 3*time.Second))
	after, err := leader.usage()
	if err != nil {
		return err
	}
	if err := p.ask(question{Do: "state"}, &st); err != nil {
		return err
	}
	s.figure(fmt.Sprintf("one of 3 servers is killed, %d callers: all know the newest after", count), took, "ms", atMost(3000))
	s.figure("  snapshots read for it", float64(st.Snapshots-snapshots), "", atMost(float64(count/2)))
	s.figure("  instances removed", float64(st.Removed), "", none)
	s.figure("  CPU of a server that is left, in the 3 s after", (after.CPU - before.CPU).Seconds(), "s")
	return nil
}

// cluster starts three servers.
func (s *stage) cluster() ([]*node, error) {
	var nodes []*node
	for i := range 3 {
		dir, err := s.dir()
		if err != nil {
			return nil, err
		}
		c := nodeConfig{Name: fmt.Sprint("scale-", i), Dir: dir, Port: -1, Cluster: -1}
		if i > 0 {
			c.Route = nodes[0].routes
		}
		n, err := s.node(c)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// follower is a server that does not lead the bucket, and the one that does.
func follower(ctx context.Context, nodes []*node) (victim, leader *node, err error) {
	nc, err := nats.Connect(nodes[0].url)
	if err != nil {
		return nil, nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, err
	}
	stream, err := js.Stream(ctx, "KV_"+kv.DefaultBucket)
	if err != nil {
		return nil, nil, err
	}
	c := stream.CachedInfo().Cluster
	if c == nil || len(c.Replicas) != 2 {
		return nil, nil, fmt.Errorf("the bucket is not on three servers: %+v", c)
	}
	for _, n := range nodes {
		if n.config.Name == c.Leader {
			leader = n
		} else {
			victim = n
		}
	}
	if leader == nil {
		return nil, nil, fmt.Errorf("the leader %q is none of ours", c.Leader)
	}
	return victim, leader, nil
}

// canary registers an instance as soon as the registry takes it, and returns
// how long after a point in time the last caller knew it, in ms.
func canary(ctx context.Context, r *kv.Registry, p *child, service string, at time.Time) (float64, error) {
	m := fleetOf(1, 1, forever)[0]
	m.ID, m.Service = "canary", service
	m.Version = fmt.Sprint(at.UnixNano())
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		try, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		_, err := r.Register(try, m.Instance, 0)
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return 0, err
		}
	}
	var took float64
	err := p.ask(question{Do: "seen", Stamp: at.UnixNano(), For: time.Minute}, &took)
	return took, err
}
