//go:build faults && linux

package faults

import (
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

// printed is what a process has printed.
type printed struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// A server that is cut off from the others holds its connections. An announcer
// there would lose its lease though it lives: it moves to another server.
func TestAnAnnouncerLeavesAServerThatIsCutOff(t *testing.T) {
	t.Parallel()
	c := natstest.StartCluster(t, natstest.ClusterOptions{})
	binary := filepath.Join(t.TempDir(), "announcer")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/announcer").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	said := new(printed)
	cmd := exec.Command(binary, "run", "--nats-url", c.URLs(), "--service", "user", "--id", "u1", "--endpoint", "tcp=127.0.0.1:9", "--region", "r", "--zone", "z")
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says that it was killed
	})
	until := func(what string, limit time.Duration, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within %v: %s\n%s", limit, what, said)
			}
		}
	}
	var at *natstest.Process
	until("a connection", 30*time.Second, func() bool {
		for _, n := range c.Nodes {
			if strings.Contains(said.String(), "url="+n.URL) {
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
	until("it is listed", 30*time.Second, listed)

	c.Isolate(at)
	cut := time.Now()
	for time.Since(cut) < 40*time.Second { // nearly three leases
		if !listed() {
			t.Fatalf("it is not listed any more %v after its server was cut off\n%s", time.Since(cut).Round(time.Millisecond), said)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !strings.Contains(said.String(), "trying another") {
		t.Errorf("it has not moved:\n%s", said)
	}
}
