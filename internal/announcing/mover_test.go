package announcing

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

func flags(url string) *daemon.NATSFlags {
	return &daemon.NATSFlags{URL: url, ConnectTimeout: testkit.Patience}
}

func TestMoverMovesToAnotherServerWhileThereIsTrouble(t *testing.T) {
	a, b := natstest.Start(t, natstest.Listen), natstest.Start(t, natstest.Listen)
	log := new(testkit.Output)
	nc, err := flags(a.ClientURL()+","+b.ClientURL()).Connect(t.Context(), "test", log.Logger(slog.LevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	m := newMover(nc, func() time.Duration { return 20 * time.Millisecond }, log.Logger(slog.LevelInfo))
	before := nc.ConnectedUrl()
	m.trouble(true)
	m.trouble(true)
	testkit.Eventually(t, "another server", func() bool { return nc.IsConnected() && nc.ConnectedUrl() != before })
	if !strings.Contains(log.String(), "trying another") {
		t.Errorf("the move is not logged: %s", log)
	}
	m.trouble(false)
	m.trouble(false)
	testkit.Eventually(t, "a connection", nc.IsConnected)
	time.Sleep(50 * time.Millisecond) // a move under way has ended
	stays, reconnects := nc.ConnectedUrl(), nc.Stats().Reconnects
	time.Sleep(100 * time.Millisecond) // in which it may not move
	if nc.ConnectedUrl() != stays || nc.Stats().Reconnects != reconnects {
		t.Error("it moved without trouble")
	}
}

func TestMoverStaysWhereThereIsNoOther(t *testing.T) {
	a := natstest.Start(t, natstest.Listen)
	log := new(testkit.Output)
	nc, err := flags(a.ClientURL()).Connect(t.Context(), "test", log.Logger(slog.LevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	m := newMover(nc, func() time.Duration { return 5 * time.Millisecond }, log.Logger(slog.LevelInfo))
	m.trouble(true)
	time.Sleep(100 * time.Millisecond) // in which it may not move
	m.trouble(false)
	if n := nc.Stats().Reconnects; n != 0 {
		t.Errorf("%d reconnects", n)
	}
}
