package nats_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// startSingle starts single.conf on a free port.
func startSingle(t *testing.T) *natstest.Process {
	t.Helper()
	port := testkit.FreePorts(t, 1)[0]
	n := &natstest.Process{
		Name: "single", Conf: "single.conf", Port: port,
		URL: fmt.Sprintf("nats://127.0.0.1:%d", port),
		Env: []string{"NATS_STORE_DIR=" + t.TempDir()},
	}
	n.Start(t)
	return n
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
