package nats_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }

// startSingle starts single.conf on a free port.
func startSingle(t *testing.T) *natstest.Process {
	t.Helper()
	port := natstest.FreePorts(t, 1)[0]
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
	ports := natstest.FreePorts(t, 3*size)
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
