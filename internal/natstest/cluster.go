package natstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// ClusterOptions configure [StartCluster]. The zero value is ready to use.
type ClusterOptions struct {
	// Size is the number of servers. Default 3; 1 is a server that is in no
	// cluster.
	Size int
	// StoreDir is where a server keeps its streams, by its number from 0.
	// Default: a directory that goes with the test.
	StoreDir func(i int) string
	// Config is added to the configuration of every server.
	Config string
}

// Cluster is servers with JetStream in processes of their own. Each route
// between two of them leads through proxies that can be cut. Servers do not tell
// clients of other servers.
type Cluster struct {
	Nodes  []*Process           // n1, n2, …
	routes map[[2]string]*Proxy // by the server that dials and the one that is dialled
}

// StartCluster starts a cluster and waits until all of it is healthy.
func StartCluster(tb testing.TB, o ClusterOptions) *Cluster {
	tb.Helper()
	if o.Size == 0 {
		o.Size = 3
	}
	if o.StoreDir == nil {
		root := tb.TempDir()
		o.StoreDir = func(i int) string { return filepath.Join(root, fmt.Sprintf("n%d", i+1)) }
	}
	ports := testkit.FreePorts(tb, 3*o.Size)
	clients, peers, monitors := ports[:o.Size], ports[o.Size:2*o.Size], ports[2*o.Size:]
	c := &Cluster{routes: map[[2]string]*Proxy{}}
	for i := range o.Size {
		name := fmt.Sprintf("n%d", i+1)
		routes := make([]string, o.Size)
		for j := range routes {
			address := fmt.Sprintf("127.0.0.1:%d", peers[j])
			if j != i {
				p := NewProxy(tb, address)
				c.routes[[2]string{name, fmt.Sprintf("n%d", j+1)}] = p
				address = p.Addr()
			}
			routes[j] = "nats://" + address
		}
		conf := filepath.Join(tb.TempDir(), name+".conf")
		text := fmt.Sprintf(serverConf, name, clients[i], monitors[i], o.StoreDir(i))
		if o.Size > 1 {
			text += fmt.Sprintf(clusterConf, peers[i], strings.Join(routes, ", "))
		}
		text += o.Config
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			tb.Fatalf("natstest: cluster: %v", err)
		}
		c.Nodes = append(c.Nodes, &Process{
			Name: name, Conf: conf,
			URL:     fmt.Sprintf("nats://127.0.0.1:%d", clients[i]),
			Monitor: fmt.Sprintf("http://127.0.0.1:%d", monitors[i]),
		})
	}
	for _, n := range c.Nodes {
		n.Start(tb)
	}
	for _, n := range c.Nodes {
		n.Healthy(tb)
	}
	return c
}

// serverConf is the configuration of one server: name, ports for clients and
// monitoring, store. Silent clients are given up as in deploy/nats.
const serverConf = `
server_name: %s
listen: "127.0.0.1:%d"
http: "127.0.0.1:%d"
jetstream { store_dir: %q, max_file_store: 1GB, max_memory_store: 256MB }
ping_interval: "20s"
ping_max: 2
lame_duck_duration: "30s"
lame_duck_grace_period: "1s"
`

// clusterConf is added for a server of a cluster: port for routes, the routes.
// The server does not advertise its real port for routes, so that the others use
// the proxies. It gives up silent routes as in deploy/nats.
const clusterConf = `
cluster {
  name: proxima
  listen: "127.0.0.1:%d"
  routes: [%s]
  advertise: "127.0.0.1:1"
  no_advertise: true
  ping_interval: "5s"
  ping_max: 2
}
`

// URLs of all servers but these, joined for nats.Connect.
func (c *Cluster) URLs(but ...*Process) string {
	var urls []string
	for _, n := range c.Others(but...) {
		urls = append(urls, n.URL)
	}
	return strings.Join(urls, ",")
}

// Node is the server of that name.
func (c *Cluster) Node(tb testing.TB, name string) *Process {
	tb.Helper()
	for _, n := range c.Nodes {
		if n.Name == name {
			return n
		}
	}
	tb.Fatalf("natstest: there is no server %q", name)
	return nil
}

// Others are the servers but these.
func (c *Cluster) Others(but ...*Process) []*Process {
	var others []*Process
next:
	for _, n := range c.Nodes {
		for _, b := range but {
			if n == b {
				continue next
			}
		}
		others = append(others, n)
	}
	return others
}

// Links calls what with the proxies of all routes from and to a server.
// Isolate and Rejoin are the usual ones.
func (c *Cluster) Links(n *Process, what func(*Proxy)) {
	for ends, p := range c.routes {
		if ends[0] == n.Name || ends[1] == n.Name {
			what(p)
		}
	}
}

// Isolate cuts a server off from the others, without a reset: only its clients
// still reach it.
func (c *Cluster) Isolate(n *Process) {
	c.Links(n, func(p *Proxy) { p.Lose(Up | Down) })
}

// Rejoin undoes Isolate.
func (c *Cluster) Rejoin(n *Process) { c.Links(n, (*Proxy).Heal) }
