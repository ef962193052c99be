//go:build faults && linux

package faults

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// A server that is cut off from the others holds its connections. An announcer
// there would lose its lease though it lives: it moves to another server.
func TestAnAnnouncerLeavesAServerThatIsCutOff(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, natstest.ClusterOptions{})
	p := testkit.Start(t, testkit.Command{Path: filepath.Join(testkit.Build(t, "cmd/..."), "announcer"), Args: []string{
		"run", "--nats-url", c.URLs(), "--service", "user", "--id", "u1", "--endpoint", "tcp=127.0.0.1:9", "--region", "r", "--zone", "z",
	}})
	var at *natstest.Process
	testkit.Eventually(t, "a connection", func() bool {
		for _, n := range c.Nodes {
			if p.Stderr.Contains("url=" + n.URL) {
				at = n
			}
		}
		return at != nil
	})

	nc, err := nats.Connect(c.URLs(at), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r, err := kv.Open(t.Context(), nc, kv.Options{NoCreate: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// listed says whether the others of the cluster list it, and with which lease.
	listed := func() bool {
		all, err := r.Snapshot(t.Context(), "user")
		return err == nil && len(all) == 1 && len(all[0].Entries) == 1
	}
	testkit.Eventually(t, "it is listed", listed)

	c.Isolate(at)
	cut := time.Now()
	for time.Since(cut) < 40*time.Second { // nearly three leases
		if !listed() {
			t.Fatalf("it is not listed any more %v after its server was cut off", time.Since(cut).Round(time.Millisecond))
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !p.Stderr.Contains("trying another") {
		t.Error("it has not moved")
	}
}
