package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// stage is what a section works with, and takes down at its end.
type stage struct {
	config  config
	section string
	report  *report
	undo    []func()
}

func (s *stage) figure(name string, value float64, unit string, opts ...option) {
	s.report.add(s.section, name, value, unit, opts...)
}

func (s *stage) later(f func()) { s.undo = append(s.undo, f) }

func (s *stage) end() {
	for _, f := range slices.Backward(s.undo) {
		f()
	}
	s.undo = nil
}

// dir is a directory that lasts as long as the stage.
func (s *stage) dir() (string, error) {
	dir, err := os.MkdirTemp("", "proxima-scale-")
	if err == nil {
		s.later(func() { _ = os.RemoveAll(dir) })
	}
	return dir, err
}

// server starts a NATS server that is alone.
func (s *stage) server() (*node, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	return s.node(nodeConfig{Name: "scale", Dir: dir, Port: -1})
}

func (s *stage) node(c nodeConfig) (*node, error) {
	n, err := startNode(c)
	if err == nil {
		s.later(func() { n.end() })
	}
	return n, err
}

// callers starts a process of callers.
func (s *stage) callers(ctx context.Context, c callersConfig) (*child, error) {
	p, err := spawn("callers", c)
	if err != nil {
		return nil, err
	}
	interrupted := context.AfterFunc(ctx, p.kill) // a wait for an answer ends
	s.later(func() {
		interrupted()
		p.end()
	})
	return p, nil
}

// registries opens the bucket on n connections.
func (s *stage) registries(ctx context.Context, url string, n int, o kv.Options) ([]*kv.Registry, error) {
	all := make([]*kv.Registry, n)
	for i := range all {
		nc, err := dial(url)
		if err != nil {
			return nil, err
		}
		s.later(nc.Close)
		if all[i], err = open(ctx, nc, o); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// quiet is for logs that would only say what is measured anyway.
var quiet = slog.New(slog.DiscardHandler)

// dial connects as Proxima's own commands do. Options are added.
func dial(url string, more ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(url, append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(150*time.Millisecond, 150*time.Millisecond), nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
		nats.ReconnectBufSize(-1), nats.Timeout(5 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what it would log is measured
	}, more...)...)
}

// patient is for so many callers on one machine that none of them gets to read
// an answer in the 4 s in which commands want one.
func patient(o *nats.Options) error {
	o.PingInterval, o.Timeout = nats.DefaultPingInterval, time.Minute
	return nil
}

func open(ctx context.Context, nc *nats.Conn, o kv.Options) (*kv.Registry, error) {
	o.Logger, o.OpTimeout = quiet, 10*time.Second // with two processors, many at once may wait that long
	return kv.Open(ctx, nc, o)
}

// choose makes a selector for a caller in one of the zones. Its instances
// cannot be called here, so none is probed.
func choose(ctx context.Context, nc *nats.Conn, source selector.Source) (*selector.Selector, error) {
	return selector.New(ctx, nc, selector.Options{
		Location: topology.Location{Region: "eu-west-1", Zone: "eu-west-1a"}, Source: source, Logger: quiet, Probe: selector.Probe{Kind: selector.ProbeNone},
		FirstSnapshot: 5 * time.Minute, // with two processors for all of them it may take that long
	})
}

// member is an instance and the revision of its record, 0 if it is not listed.
type member struct {
	events.Instance
	revision uint64
}

// fleetOf makes instances as they are in the field: three zones, racks, hosts,
// two endpoints.
func fleetOf(n, services int, ttl time.Duration) []member {
	all := make([]member, n)
	for i := range all {
		host := fmt.Sprintf("10.%d.%d.%d", i/62_500%250, i/250%250, i%250)
		all[i].Instance = events.Instance{
			ID: fmt.Sprintf("i%06d", i), Service: serviceName(i % services), Incarnation: "ABCDEFGHIJKL",
			Endpoints: map[string]string{events.HTTP: host + ":8080", events.GRPC: host + ":9090"},
			Location: topology.Location{
				Region: "eu-west-1", Zone: "eu-west-1" + string(rune('a'+i/services%3)), Rack: fmt.Sprint("r", i%40), Host: fmt.Sprint("node-", i%500),
			},
			Version: "1.4.2", Metadata: map[string]string{"team": "a"}, Started: time.Now().Add(-time.Hour), TTL: ttl,
		}
	}
	return all
}

func serviceName(i int) string { return fmt.Sprintf("service-%04d", i) }

// perConnection is how many registrations a connection has under way.
const perConnection = 8

// register lists all of them, on all connections at once.
func register(ctx context.Context, rs []*kv.Registry, all []member) error {
	group, ctx := errgroup.WithContext(ctx)
	workers := len(rs) * perConnection
	for w := range workers {
		group.Go(func() error {
			for i := w; i < len(all); i += workers {
				m := &all[i]
				var err error
				if m.revision, err = rs[w%len(rs)].Register(ctx, m.Instance, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// stamp is a version that says when it was made.
func stamp() string { return strconv.FormatInt(time.Now().UnixNano(), 10) }

// stamped is when a version was made, 0 if it does not say.
func stamped(version string) int64 {
	at, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return 0
	}
	return at
}

// paced calls f rate times a second for d, by workers that do not wait for
// each other, and returns how often it was called: less, if that is too much.
func paced(ctx context.Context, d time.Duration, rate, workers int, f func(ctx context.Context, worker int) error) (int, error) {
	group, ctx := errgroup.WithContext(ctx)
	done := make([]int, workers)
	for w := range workers {
		every := time.Duration(float64(time.Second) * float64(workers) / float64(rate))
		group.Go(func() error {
			begin := time.Now().Add(every * time.Duration(w) / time.Duration(workers))
			for {
				due := begin.Add(time.Duration(done[w]) * every)
				if due.Sub(begin) >= d || time.Since(begin) >= d {
					return nil
				}
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return ctx.Err()
				}
				if err := f(ctx, w); err != nil {
					return err
				}
				done[w]++
			}
		})
	}
	err := group.Wait()
	sum := 0
	for _, n := range done {
		sum += n
	}
	return sum, err
}
