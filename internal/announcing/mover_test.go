package announcing_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/announcing"
	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// journal collects a log.
type journal struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func flags(url string) *daemon.NATSFlags {
	return &daemon.NATSFlags{URL: url, ConnectTimeout: patience}
}

func TestMoverMovesToAnotherServerWhileThereIsTrouble(t *testing.T) {
	a, b := natstest.Start(t, natstest.Listen), natstest.Start(t, natstest.Listen)
	log := new(journal)
	nc, err := flags(a.ClientURL()+","+b.ClientURL()).Connect(t.Context(), "test", log.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	m := announcing.NewMover(nc, 20*time.Millisecond, log.logger())
	before := nc.ConnectedUrl()
	m.Trouble(true)
	m.Trouble(true)
	eventually(t, "another server", func() bool { return nc.IsConnected() && nc.ConnectedUrl() != before })
	if !strings.Contains(log.String(), "trying another") {
		t.Errorf("nothing is said of it: %s", log)
	}
	m.Trouble(false)
	m.Trouble(false)
	eventually(t, "a connection", nc.IsConnected)
	time.Sleep(50 * time.Millisecond) // what was under way has ended
	stays, reconnects := nc.ConnectedUrl(), nc.Stats().Reconnects
	time.Sleep(100 * time.Millisecond)
	if nc.ConnectedUrl() != stays || nc.Stats().Reconnects != reconnects {
		t.Errorf("it moved though there is no trouble")
	}
}

func TestMoverStaysWhereThereIsNoOther(t *testing.T) {
	a := natstest.Start(t, natstest.Listen)
	log := new(journal)
	nc, err := flags(a.ClientURL()).Connect(t.Context(), "test", log.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	m := announcing.NewMover(nc, 5*time.Millisecond, log.logger())
	m.Trouble(true)
	time.Sleep(100 * time.Millisecond)
	m.Trouble(false)
	if n := nc.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}
