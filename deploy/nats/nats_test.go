// Package nats_test starts the configurations of this folder, for real, and
// checks that the registry runs on them.
package nats_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
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
	n := natstest.StartSingle(t, "single.conf")
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
