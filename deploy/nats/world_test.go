package nats_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestMain(m *testing.M) {
	testkit.AtOnce(4)
	natstest.Main(m)
}

// startCluster starts cluster.conf three times.
func startCluster(t *testing.T) []*natstest.Process {
	t.Helper()
	const size = 3
	ports := testkit.FreePorts(t, 3*size)
	client, peer, monitor := ports[:size], ports[size:2*size], ports[2*size:]
	routes := make([]string, size)
	for i := range routes {
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", peer[i])
	}
	nodes := make([]*natstest.Process, size)
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		nodes[i] = &natstest.Process{
			Name: name, Conf: "cluster.conf",
			URL: fmt.Sprintf("nats://127.0.0.1:%d", client[i]),
			Env: []string{
				"NATS_NAME=" + name,
				fmt.Sprintf("NATS_LISTEN=127.0.0.1:%d", client[i]),
				fmt.Sprintf("NATS_CLUSTER_LISTEN=127.0.0.1:%d", peer[i]),
				fmt.Sprintf("NATS_HTTP=127.0.0.1:%d", monitor[i]),
				"NATS_ROUTES=[" + strings.Join(routes, ", ") + "]",
				"NATS_STORE_DIR=" + t.TempDir(),
			},
		}
		nodes[i].Start(t)
	}
	return nodes
}

// site is a region: a server, and a registry that reads all regions.
type site struct {
	*natstest.Process
	region string
	link   *natstest.Proxy // to the hub; nil at the hub
	nc     *nats.Conn
	r      *kv.Registry
}

// regions are those of the tests, the hub first.
var regions = []string{"us-east-1", "eu-west-1", "ap-south-1"}

// startRegions starts hub.conf, and leaf.conf for the others, with links that can
// be cut.
func startRegions(t *testing.T, o kv.Options) []*site {
	t.Helper()
	ports := testkit.FreePorts(t, 2*len(regions)+1)
	hub := fmt.Sprintf("127.0.0.1:%d", ports[0])
	sites := make([]*site, len(regions))
	for i, region := range regions {
		listen := fmt.Sprintf("127.0.0.1:%d", ports[2*i+1])
		s := &site{region: region, Process: &natstest.Process{
			Name: "n-" + region, Conf: "hub.conf", URL: "nats://" + listen,
			Env: []string{
				"NATS_NAME=n-" + region, "NATS_REGION=" + region, "NATS_LISTEN=" + listen,
				fmt.Sprintf("NATS_HTTP=127.0.0.1:%d", ports[2*i+2]), "NATS_STORE_DIR=" + t.TempDir(),
			},
		}}
		if i == 0 {
			s.Env = append(s.Env, "NATS_LEAF_LISTEN="+hub)
		} else {
			s.Conf, s.link = "leaf.conf", natstest.NewProxy(t, hub)
			s.Env = append(s.Env, "NATS_HUB=nats-leaf://"+s.link.Addr())
		}
		s.Start(t)
		sites[i] = s
	}
	for _, s := range sites {
		s.nc = connect(t, s.Process)
		o.Domain, o.Regions, o.Logger = s.region, regions, slog.New(slog.DiscardHandler)
		testkit.Retry(t, "the registry of "+s.region+" is open", func(ctx context.Context) (err error) {
			s.r, err = kv.Open(ctx, s.nc, o)
			if err == nil {
				_, err = s.r.Evacuations(ctx) // both of its buckets are there
			}
			return err
		})
		var keeping sync.WaitGroup
		keeping.Go(func() { _ = s.r.KeepSources(t.Context()) }) // as a router does
		t.Cleanup(keeping.Wait)
	}
	return sites
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
	return watchService(t, r, "user")
}

func watchService(t *testing.T, r *kv.Registry, service string) *viewer {
	t.Helper()
	v := &viewer{change: make(chan struct{}, 1), least: 1 << 30}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { _ = r.Watch(ctx, service, v.apply) }) // until ctx ends
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
