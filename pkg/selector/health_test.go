package selector_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/kv"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// changing is a server whose password changes.
type changing struct {
	*server.Server
	t        *testing.T
	password atomic.Pointer[string]
}

func newChanging(t *testing.T) *changing {
	t.Helper()
	c := &changing{t: t}
	c.password.Store(new("secret"))
	c.Server = natstest.Start(t, natstest.Listen, func(o *server.Options) { o.CustomClientAuthentication = c })
	return c
}

// Check implements server.Authentication.
func (c *changing) Check(client server.ClientAuthentication) bool {
	o := client.GetOpts()
	return o.Username == "user" && o.Password == *c.password.Load()
}

// change replaces the password, and ends all connections, as a server does that
// reads its configuration again (Server.ReloadOptions does not lock what requests
// read meanwhile).
func (c *changing) change(password string) {
	c.t.Helper()
	c.password.Store(&password)
	all, err := c.Connz(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, conn := range all.Conns {
		_ = c.DisconnectClientByID(conn.Cid) // ended meanwhile
	}
}

// watched is an announcement and a selector on one connection.
type watched struct {
	nc  *nats.Conn
	a   *kv.Announcement
	s   *selector.Selector
	log *testkit.Output
}

func newWatched(t *testing.T, nc *nats.Conn) *watched {
	t.Helper()
	t.Cleanup(nc.Close)
	w := &watched{nc: nc, log: new(testkit.Output)}
	r, err := kv.Open(t.Context(), nc, kv.Options{Logger: w.log.Logger(slog.LevelInfo)})
	if err != nil {
		t.Fatal(err)
	}
	in := instance("a", home)
	in.TTL = 2 * time.Second
	w.a = announce(t, r, in)
	if w.s, err = selector.New(t.Context(), nc, selector.Options{Source: r, Location: home, Logger: silent}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.s.Close() })
	testkit.Eventually(t, "it is listed", func() bool {
		_, err := w.s.Pick(t.Context(), "user")
		return err == nil
	})
	if h := w.s.Health(); h != (selector.Health{Services: 1}) {
		t.Errorf("%+v", h)
	}
	return w
}

// While credentials are changed a server refuses the old ones for a moment.
func TestAConnectionThatIsRefusedForAMomentComesBack(t *testing.T) {
	c := newChanging(t)
	nc, err := kv.Connect(c.ClientURL(), nats.UserInfo("user", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWatched(t, nc)
	c.change("another")
	testkit.Eventually(t, "the announcer and the selector say why", func() bool {
		h, s := w.s.Health(), w.a.State()
		return h.Stale && !h.StaleSince.IsZero() && errors.Is(h.Err, nats.ErrAuthorization) && s.Lapsed && errors.Is(s.Err, nats.ErrAuthorization)
	})
	if _, err := w.s.Pick(t.Context(), "user"); err != nil {
		t.Errorf("a pick: %v", err)
	}
	c.change("secret")
	testkit.Eventually(t, "all is well", func() bool {
		s := w.a.State()
		return w.s.Health() == selector.Health{Services: 1} && s.Registered() && s.Err == nil && !s.Lapsed
	})
	if strings.Contains(w.log.String(), "closes for good") {
		t.Errorf("logged %s", w.log)
	}
}

func TestAConnectionThatEndsForGoodIsSeenEverywhere(t *testing.T) {
	c := newChanging(t)
	nc, err := nats.Connect(c.ClientURL(), nats.UserInfo("user", "secret"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	w := newWatched(t, nc)
	if !w.log.Contains("closes for good") || !w.log.Contains("lacks=nats.IgnoreAuthErrorAbort()") {
		t.Errorf("no warning at the start: %s", w.log)
	}
	c.change("another")
	testkit.Eventually(t, "the connection is closed", nc.IsClosed)
	c.change("secret")
	testkit.Eventually(t, "the announcer and the selector say why", func() bool {
		return errors.Is(w.s.Health().Err, nats.ErrConnectionClosed) && errors.Is(w.a.State().Err, nats.ErrConnectionClosed)
	})
	for _, err := range []error{w.s.Health().Err, w.a.State().Err} {
		if !errors.Is(err, nats.ErrAuthorization) || !strings.Contains(err.Error(), "connect with kv.Connect, or set nats.IgnoreAuthErrorAbort()") {
			t.Errorf("%v", err)
		}
	}
	testkit.Eventually(t, "the lease has lapsed", func() bool { return w.a.State().Lapsed })
	if n := strings.Count(w.log.String(), "the connection to NATS is closed for good"); n != 1 || !strings.Contains(w.log.String(), "level=ERROR") {
		t.Errorf("logged %d times: %s", n, w.log)
	}
}

func TestHealthOfASelectorWithoutARegistry(t *testing.T) {
	ns := natstest.Start(t)
	nc := natstest.Connect(t, ns)
	s, err := selector.New(t.Context(), nc, selector.Options{Source: selector.Static(*instance("a", home).Instance), Location: home, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if h := s.Health(); h != (selector.Health{}) {
		t.Errorf("%+v", h)
	}
	nc.Close()
	if h := s.Health(); !errors.Is(h.Err, nats.ErrConnectionClosed) {
		t.Errorf("%+v", h)
	}
}

func TestAPickWithoutNATSSaysWhichServersAreTried(t *testing.T) {
	address := testkit.FreeAddress(t)
	nc, err := kv.Connect("nats://user:secret@" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s, err := selector.New(t.Context(), nc, selector.Options{Location: home, Logger: silent})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = s.Pick(ctx, "user")
	if !errors.Is(err, selector.ErrNoSnapshot) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "not connected to NATS at nats://"+address) {
		t.Errorf("error %v", err)
	}
}
