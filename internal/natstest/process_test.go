//go:build unix

package natstest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }

func single(t *testing.T) *natstest.Process {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(conf, []byte("jetstream { store_dir: $NATS_STORE_DIR }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return natstest.StartSingle(t, conf)
}

func TestAProcessIsKilledStoppedAndEnded(t *testing.T) {
	p := single(t)
	nc, err := nats.Connect(p.URL, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	p.Stop()
	for end := time.Now().Add(soon); nc.FlushTimeout(quiet) == nil; { // each of its threads stops by itself
		if time.Now().After(end) {
			t.Fatal("a stopped server answers")
		}
	}
	p.Continue()
	if err := nc.FlushTimeout(soon); err != nil {
		t.Errorf("a server that goes on does not answer: %v", err)
	}

	for what, end := range map[string]func(){"killed": p.Kill, "terminated": p.Terminate} {
		end()
		if p.Running() {
			t.Errorf("a server that was %s runs", what)
		}
		p.Start(t)
		p.Ready(t)
	}
	if !strings.Contains(p.Log(), "Server Exiting") {
		t.Errorf("a terminated server did not say goodbye:\n%s", p.Log())
	}
}
