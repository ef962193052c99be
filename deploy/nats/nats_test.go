// Package nats_test starts the configurations of this folder, for real, and
// checks that the registry runs on them.
package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestNothingIsReachableFromOutsideByDefault(t *testing.T) {
	t.Setenv("NATS_STORE_DIR", t.TempDir())
	opts, err := server.ProcessConfigFile("single.conf")
	if err != nil {
		t.Fatal(err)
	}
	for what, host := range map[string]string{"clients": opts.Host, "monitoring": opts.HTTPHost} {
		if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() {
			t.Errorf("the address for %s is %q, not loopback", what, host)
		}
	}
}

func TestAClusterDoesNotStartHalfConfigured(t *testing.T) {
	all := map[string]string{
		"NATS_NAME": "n1", "NATS_LISTEN": "127.0.0.1:4222", "NATS_CLUSTER_LISTEN": "127.0.0.1:6222",
		"NATS_ROUTES": "[nats://127.0.0.1:6222]", "NATS_HTTP": "127.0.0.1:8222", "NATS_STORE_DIR": t.TempDir(),
	}
	for missing := range all {
		t.Run(missing, func(t *testing.T) {
			for name, value := range all {
				if name != missing {
					t.Setenv(name, value)
				}
			}
			_, err := server.ProcessConfigFile("cluster.conf")
			if err == nil || !strings.Contains(err.Error(), missing) {
				t.Errorf("got error %v, want one that names %s", err, missing)
			}
		})
	}
}

func TestOneNodeRunsTheRegistryAndKeepsItOverAKill(t *testing.T) {
	t.Parallel()
	n := startSingle(t)
	nc := connect(t, n)
	r := announce(t, nc, 20)
	v := watch(t, nc)
	v.until(t, "all listed", v.all(20))

	n.Kill()
	v.until(t, "stale", func(s events.Snapshot) bool { return s.Stale })
	n.Start(t)

	v.until(t, "all listed by a registry that answers", v.all(20))
	leavesAndExpires(t, nc, v, r)
	if v.fewest() < 20 {
		t.Errorf("there was a view of %d of 20 instances", v.fewest())
	}
}

func TestThreeNodesRunTheRegistryAndLoseOneWithoutLosingAnInstance(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t)
	nc := connect(t, nodes...)
	r := announce(t, nc, 20)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(clusterOf(t, js).Replicas) + 1; got != len(nodes) {
		t.Fatalf("the bucket has %d replicas, want %d", got, len(nodes))
	}

	// The worst of the three: the one that leads the stream.
	leader, others := split(t, nodes, clusterOf(t, js).Leader)
	v := watch(t, connect(t, others[0]))
	v.until(t, "all listed", v.all(20))
	leader.Kill()
	killed := time.Now()
	leavesAndExpires(t, connect(t, others[1]), v, r)
	t.Logf("a change was made and seen %.1f s after the leader was killed", time.Since(killed).Seconds())

	leader.Start(t)
	testkit.Retry(t, "the killed node catches up", func(context.Context) error {
		for _, r := range clusterOf(t, js).Replicas {
			if !r.Current || r.Offline {
				return fmt.Errorf("replica %s is %d behind, offline %t", r.Name, r.Lag, r.Offline)
			}
		}
		return nil
	})
	v.until(t, "all listed still", v.all(20))
	if v.fewest() < 20 {
		t.Errorf("there was a view of %d of 20 instances", v.fewest())
	}
}

// connect connects to the nodes as the commands do: for ever, and without a
// buffer of stale messages.
func connect(t *testing.T, nodes ...*natstest.Process) *nats.Conn {
	t.Helper()
	urls := make([]string, len(nodes))
	for i, n := range nodes {
		urls[i] = n.URL
	}
	nc, err := nats.Connect(strings.Join(urls, ","),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond),
		nats.ReconnectBufSize(-1), nats.PingInterval(2*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// open opens the registry, once JetStream has a leader.
func open(t *testing.T, nc *nats.Conn) *kv.Registry {
	t.Helper()
	var r *kv.Registry
	testkit.Retry(t, "the registry is open", func(ctx context.Context) (err error) {
		r, err = kv.Open(ctx, nc, kv.Options{Logger: slog.New(slog.DiscardHandler)})
		return err
	})
	return r
}

func instance(id string) events.Instance {
	return events.Instance{ID: id, Service: "user", Endpoints: map[string]string{events.NATS: "user." + id}, TTL: 15 * time.Second}
}

// announce keeps n instances announced until the test ends.
func announce(t *testing.T, nc *nats.Conn, n int) *kv.Registry {
	t.Helper()
	r := open(t, nc)
	for i := range n {
		a, err := r.Announce(instance(fmt.Sprintf("i%d", i)), kv.AnnounceOptions{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Leave(context.Background()) }) // the server may be gone
	}
	return r
}

// leavesAndExpires lists two more instances: one leaves, one dies.
func leavesAndExpires(t *testing.T, nc *nats.Conn, v *viewer, announced *kv.Registry) {
	t.Helper()
	n := len(v.get().Entries)
	a, err := announced.Announce(instance("leaver"), kv.AnnounceOptions{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mortal := instance("mortal")
	mortal.TTL = time.Second
	r := open(t, nc)
	testkit.Retry(t, "an instance without renewals is listed", func(ctx context.Context) error {
		_, err := r.Register(ctx, mortal, 0)
		return err
	})
	v.until(t, "the instance that leaves", v.lists("leaver", true))
	if err := a.Leave(t.Context()); err != nil {
		t.Errorf("leave: %v", err)
	}
	v.until(t, "neither the one that left nor the one that died", v.all(n))
}

// viewer is what a caller sees.
type viewer struct {
	mu     sync.Mutex
	last   events.Snapshot
	least  int // instances in a view, after the first whole one
	change chan struct{}
}

func watch(t *testing.T, nc *nats.Conn) *viewer {
	t.Helper()
	return watchWith(t, open(t, nc))
}

func watchWith(t *testing.T, r *kv.Registry) *viewer {
	t.Helper()
	v := &viewer{change: make(chan struct{}, 1), least: 1 << 30}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { _ = r.Watch(ctx, "user", v.apply) }) // until ctx ends
	t.Cleanup(func() { cancel(); watching.Wait() })
	return v
}

func (v *viewer) apply(s events.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(s.Entries) < len(v.last.Entries) {
		v.least = min(v.least, len(s.Entries))
	}
	v.last = s
	select {
	case v.change <- struct{}{}:
	default:
	}
}

func (v *viewer) get() events.Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// fewest is the smallest view that a larger one shrank to.
func (v *viewer) fewest() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.least
}

func (v *viewer) all(n int) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool { return !s.Stale && len(s.Entries) == n }
}

func (v *viewer) lists(id string, want bool) func(events.Snapshot) bool {
	return func(s events.Snapshot) bool {
		return want == slices.ContainsFunc(s.Entries, func(e events.Entry) bool { return e.ID == id })
	}
}

func (v *viewer) until(t *testing.T, what string, ok func(events.Snapshot) bool) {
	t.Helper()
	late := time.NewTimer(testkit.Patience)
	defer late.Stop()
	for !ok(v.get()) {
		select {
		case <-v.change:
		case <-late.C:
			s := v.get()
			t.Fatalf("after %v still not: %s; %d instances, stale %t", testkit.Patience, what, len(s.Entries), s.Stale)
		}
	}
}

// clusterOf is the servers that keep the stream, and its leader.
func clusterOf(t *testing.T, js jetstream.JetStream) *jetstream.ClusterInfo {
	t.Helper()
	var cluster *jetstream.ClusterInfo
	testkit.Retry(t, "the stream has a leader", func(ctx context.Context) error {
		stream, err := js.Stream(ctx, "KV_proxima")
		if err != nil {
			return err
		}
		cluster = stream.CachedInfo().Cluster
		if cluster == nil || cluster.Leader == "" {
			return errors.New("no leader")
		}
		return nil
	})
	return cluster
}

// split takes the node of that name out of the list.
func split(t *testing.T, nodes []*natstest.Process, name string) (one *natstest.Process, others []*natstest.Process) {
	t.Helper()
	for _, n := range nodes {
		if n.Name == name {
			one = n
		} else {
			others = append(others, n)
		}
	}
	if one == nil {
		t.Fatalf("there is no node %q", name)
	}
	return one, others
}
