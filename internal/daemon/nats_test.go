package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

const patience = 10 * time.Second

func flags(url string) *daemon.NATSFlags {
	return &daemon.NATSFlags{URL: url, ConnectTimeout: patience}
}

func TestConnectionsFollowTheDesign(t *testing.T) {
	ns := natstest.Start(t, natstest.Listen)
	nc, err := flags(ns.ClientURL()).Connect(t.Context(), "announcer", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	o := nc.Opts
	if o.MaxReconnect != -1 || o.ReconnectBufSize != -1 || o.MaxPingsOut != 2 || !o.RetryOnFailedConnect || o.Name != "announcer" {
		t.Errorf("options %+v", o)
	}
	if o.PingInterval < 2*time.Second || o.PingInterval > 5*time.Second {
		t.Errorf("pings every %v", o.PingInterval)
	}
	shortest, longest := time.Hour, time.Duration(0)
	for range 1000 {
		d := o.CustomReconnectDelayCB(1)
		shortest, longest = min(shortest, d), max(longest, d)
	}
	if shortest < 100*time.Millisecond || longest > 250*time.Millisecond || longest-shortest < 100*time.Millisecond {
		t.Errorf("waits %v to %v between attempts", shortest, longest)
	}
}

func TestConnectWaitsForAServerThatComesLater(t *testing.T) {
	t.Parallel()
	address := testkit.FreeAddress(t)
	log := new(testkit.Output)
	started := make(chan *nats.Conn, 1)
	go func() {
		nc, err := flags("nats://"+address).Connect(t.Context(), "test", log.Logger(slog.LevelInfo))
		if err != nil {
			t.Error(err)
		}
		started <- nc
	}()
	select {
	case <-started:
		t.Fatal("Connect returned without a server")
	case <-time.After(150 * time.Millisecond):
	}
	natstest.Start(t, natstest.ListenAt(address))
	nc := <-started
	if nc == nil {
		return
	}
	defer nc.Close()
	if !nc.IsConnected() {
		t.Error("not connected")
	}
	testkit.Eventually(t, "a line about it", func() bool { return strings.Contains(log.String(), "connected to NATS") })
	if got := log.String(); strings.Contains(got, "cannot reach") {
		t.Errorf("a warning while Connect waits: %s", got)
	}
}

func TestTryConnectReturnsWithoutAServer(t *testing.T) {
	t.Parallel()
	address := testkit.FreeAddress(t)
	log := new(testkit.Output)
	began := time.Now()
	nc, err := flags("nats://"+address).TryConnect(t.Context(), "test", log.Logger(slog.LevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if took := time.Since(began); took > patience/2 {
		t.Errorf("waited %v", took)
	}
	if !strings.Contains(log.String(), "continuing without it") {
		t.Errorf("nothing is said of it: %s", log)
	}
	natstest.Start(t, natstest.ListenAt(address))
	testkit.Eventually(t, "a connection", nc.IsConnected)
}

func TestAnUnreachableServerIsOneClearError(t *testing.T) {
	t.Parallel()
	log := new(testkit.Output)
	f := flags("nats://proxima:secret@" + testkit.FreeAddress(t))
	f.ConnectTimeout = 400 * time.Millisecond
	began := time.Now()
	_, err := f.Connect(t.Context(), "test", log.Logger(slog.LevelInfo))
	if err == nil {
		t.Fatal("connected to nothing")
	}
	for _, want := range []string{"cannot reach NATS at nats://", "connection refused", "--nats-url"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%q contains the password", err)
	}
	if took := time.Since(began); took < 400*time.Millisecond || took > 3*time.Second {
		t.Errorf("took %v", took)
	}
	if log.String() != "" {
		t.Errorf("logged %q", log)
	}
}

func TestConnectEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := flags("nats://"+testkit.FreeAddress(t)).Connect(ctx, "test", slog.New(slog.DiscardHandler)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestARefusalEndsTheWait(t *testing.T) {
	t.Parallel()
	password := func(o *server.Options) { o.Username, o.Password = "proxima", "secret" }
	for _, tt := range []struct {
		name  string
		begin func(t *testing.T) string // returns the URL
	}{
		{"at the first attempt", func(t *testing.T) string {
			return natstest.Start(t, natstest.Listen, password).ClientURL()
		}},
		{"by a server that comes later", func(t *testing.T) string {
			address, started := testkit.FreeAddress(t), make(chan struct{})
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(started)
				for range 2 { // attempts that fail
					if conn, err := l.Accept(); err == nil {
						conn.Close()
					}
				}
				l.Close()
				natstest.Start(t, natstest.ListenAt(address), password)
			}()
			t.Cleanup(func() { <-started })
			return "nats://" + address
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := flags(tt.begin(t))
			f.ConnectTimeout = time.Minute
			began := time.Now()
			_, err := f.Connect(t.Context(), "test", slog.New(slog.DiscardHandler))
			if !errors.Is(err, nats.ErrAuthorization) || !strings.Contains(err.Error(), "refuses this client") {
				t.Errorf("error %v", err)
			}
			if took := time.Since(began); took > patience {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestConnectInBackgroundConnectsAndReconnects(t *testing.T) {
	t.Parallel()
	address := testkit.FreeAddress(t)
	log := new(testkit.Output)
	nc, err := flags("nats://"+address).ConnectInBackground("test", log.Logger(slog.LevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish("x", nil); err == nil {
		t.Error("publishing without a server: no error")
	}
	testkit.Eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "cannot reach NATS, retrying") })
	ns := natstest.Start(t, natstest.ListenAt(address))
	testkit.Eventually(t, "the connection", nc.IsConnected)
	natstest.Stop(ns)
	testkit.Eventually(t, "the loss", func() bool { return strings.Contains(log.String(), "lost the connection to NATS") })
	var refused refusals
	natstest.Start(t, natstest.ListenAt(address), func(o *server.Options) { o.CustomClientAuthentication = &refused })
	testkit.Eventually(t, "the refusal", func() bool { return strings.Contains(strings.ToLower(log.String()), "authorization violation") })
	mentioned := refused.n.Load()
	testkit.Eventually(t, "six more refusals, unmentioned", func() bool { return refused.n.Load() >= mentioned+6 })
	if nc.IsClosed() {
		t.Error("gave up")
	}
	if n := strings.Count(log.String(), "msg=\"cannot reach NATS, retrying\""); n > 4 {
		t.Errorf("%d complaints:\n%s", n, log)
	}
}

// refusals lets no client in, and counts them.
type refusals struct{ n atomic.Int64 }

func (r *refusals) Check(server.ClientAuthentication) bool {
	r.n.Add(1)
	return false
}

func TestAPermissionViolationIsLogged(t *testing.T) {
	ns := natstest.Start(t, natstest.Listen, func(o *server.Options) {
		o.Users = []*server.User{{Username: "a", Password: "b", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"secrets"}},
		}}}
	})
	f := flags(ns.ClientURL())
	f.User, f.Password = "a", "b"
	log := new(testkit.Output)
	nc, err := f.Connect(t.Context(), "test", log.Logger(slog.LevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.Publish("secrets", nil); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the violation", func() bool {
		return strings.Contains(log.String(), "NATS reports an error") && strings.Contains(log.String(), "secrets")
	})
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, _ := pair.Seed()
	public, _ := pair.PublicKey()
	seedFile := filepath.Join(dir, "user.nk")
	if err := os.WriteFile(seedFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
	certs := newCertificates(t, dir)

	for _, tt := range []struct {
		name   string
		server func(*server.Options)
		flags  daemon.NATSFlags
	}{
		{"user", func(o *server.Options) { o.Username, o.Password = "a", "b" }, daemon.NATSFlags{User: "a", Password: "b"}},
		{"nkey", func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }, daemon.NATSFlags{NKey: seedFile}},
		{"tls", certs.serverOnly, daemon.NATSFlags{CA: certs.ca}},
		{"mutual tls", certs.mutual, daemon.NATSFlags{CA: certs.ca, Cert: certs.cert, Key: certs.key}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := natstest.Start(t, natstest.Listen, tt.server)
			f := tt.flags
			f.URL, f.ConnectTimeout = ns.ClientURL(), patience
			nc, err := f.Connect(t.Context(), "test", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			nc.Close()
			if _, err := flags(ns.ClientURL()).Connect(t.Context(), "test", slog.New(slog.DiscardHandler)); err == nil {
				t.Error("let in without credentials")
			}
		})
	}
}

func TestInvalidFlagsAreRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct {
		name  string
		flags daemon.NATSFlags
		want  string
	}{
		{"scheme", daemon.NATSFlags{URL: "http://127.0.0.1:4222"}, "--nats-url http://127.0.0.1:4222: want nats://host:port"},
		{"no host", daemon.NATSFlags{URL: "nats://"}, "--nats-url nats:: want"},
		{"empty", daemon.NATSFlags{}, "--nats-url nats:: want"},
		{"second of two", daemon.NATSFlags{URL: "nats://a:4222,nats://b:port"}, "--nats-url is not a URL"},
		{"password in a bad URL", daemon.NATSFlags{URL: "ftp://u:secret@h"}, "--nats-url ftp://u:xxxxx@h: want"},
		{"creds missing", daemon.NATSFlags{URL: "a", Creds: missing}, "--nats-creds " + missing + ": open"},
		{"creds garbage", daemon.NATSFlags{URL: "a", Creds: garbage}, "--nats-creds " + garbage + ": "},
		{"nkey missing", daemon.NATSFlags{URL: "a", NKey: missing}, "--nats-nkey " + missing + ": "},
		{"ca missing", daemon.NATSFlags{URL: "a", CA: missing}, "--nats-ca " + missing + ": "},
		{"ca garbage", daemon.NATSFlags{URL: "a", CA: garbage}, "--nats-ca " + garbage + ": "},
		{"cert without key", daemon.NATSFlags{URL: "a", Cert: garbage}, "--nats-cert and --nats-key belong together"},
		{"cert garbage", daemon.NATSFlags{URL: "a", Cert: garbage, Key: garbage}, "--nats-cert " + garbage + ", --nats-key " + garbage + ": "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.flags.ConnectTimeout = time.Second
			err := tt.flags.Validate()
			if _, ok := errors.AsType[*daemon.UsageError](err); !ok || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if _, again := tt.flags.ConnectInBackground("test", slog.New(slog.DiscardHandler)); again == nil {
				t.Error("Keep takes them")
			}
			if _, again := tt.flags.Connect(t.Context(), "test", slog.New(slog.DiscardHandler)); again == nil {
				t.Error("Connect takes them")
			}
		})
	}
	if err := (&daemon.NATSFlags{URL: "a"}).Validate(); err == nil || !strings.Contains(err.Error(), "--connect-timeout 0s") {
		t.Errorf("no patience: %v", err)
	}
	if err := flags("127.0.0.1:4222, tls://b, wss://c:443").Validate(); err != nil {
		t.Errorf("good URLs: %v", err)
	}
}

func TestACredentialsFileIsRead(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, _ := pair.Seed()
	file := filepath.Join(t.TempDir(), "user.creds")
	text := "-----BEGIN NATS USER JWT-----\neyJ0.e30.x\n------END NATS USER JWT------\n\n" +
		"-----BEGIN USER NKEY SEED-----\n" + string(seed) + "\n------END USER NKEY SEED------\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := flags("nats://127.0.0.1:4222")
	f.Creds = file
	if err := f.Validate(); err != nil {
		t.Error(err)
	}
}
