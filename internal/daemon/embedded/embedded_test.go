package embedded_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/proxima-discovery/proxima/internal/daemon/embedded"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

func start(t *testing.T, o embedded.Options) *embedded.Server {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// bucket opens a key-value bucket by a connection with these options.
func bucket(t *testing.T, url string, options ...nats.Option) jetstream.KeyValue {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

func TestClientsReachItBySocketAndInProcess(t *testing.T) {
	s := start(t, embedded.Options{})
	if _, err := bucket(t, s.URL()).PutString(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	e, err := bucket(t, "", s.InProcess()).Get(t.Context(), "key")
	if err != nil || string(e.Value()) != "value" {
		t.Errorf("%v, error %v", e, err)
	}
}

func TestAStoreDirectoryKeepsTheRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for", "us")
	log := new(testkit.Output)
	s := start(t, embedded.Options{StoreDir: dir, Logger: log.Logger(slog.LevelInfo)})
	if _, err := bucket(t, s.URL()).PutString(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start(t, embedded.Options{StoreDir: dir, Logger: log.Logger(slog.LevelInfo)})
	if e, err := bucket(t, s.URL()).Get(t.Context(), "key"); err != nil || string(e.Value()) != "value" {
		t.Errorf("%v, error %v", e, err)
	}
	if log.String() != "" {
		t.Errorf("logged %s", log)
	}
}

func TestATemporaryStoreIsRemovedAndLogged(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	log := new(testkit.Output)
	s := start(t, embedded.Options{Logger: log.Logger(slog.LevelDebug)})
	made, err := filepath.Glob(filepath.Join(os.TempDir(), "proxima-nats-*"))
	if err != nil || len(made) != 1 {
		t.Fatalf("directories %q, error %v", made, err)
	}
	if !strings.Contains(log.String(), "is temporary") || !strings.Contains(log.String(), made[0]) {
		t.Errorf("logged %s", log)
	}
	if !strings.Contains(log.String(), `text="Server is ready"`) {
		t.Errorf("the server's own lines are missing: %s", log)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(made[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", made[0], err)
	}
}

func TestAnErrorOfStartIsOneLine(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "jetstream"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		options embedded.Options
		want    string
	}{
		{"store that JetStream cannot use", embedded.Options{Listen: "127.0.0.1:0", StoreDir: broken}, "JetStream: "},
		{"taken port", embedded.Options{Listen: taken.Addr().String()}, taken.Addr().String() + ": bind: address already in use"},
		{"no port", embedded.Options{Listen: "127.0.0.1"}, "listen on 127.0.0.1: want host:port"},
		{"bad port", embedded.Options{Listen: "127.0.0.1:nats"}, "listen on 127.0.0.1:nats: want host:port with a port"},
		{"not our address", embedded.Options{Listen: "192.0.2.1:0"}, "cannot assign requested address"},
		{"store is a file", embedded.Options{Listen: "127.0.0.1:0", StoreDir: file}, "store directory " + file + ": "},
		{"bad domain", embedded.Options{Listen: "127.0.0.1:0", Domain: "a.b"}, "domain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(testkit.Output)
			tt.options.Logger = log.Logger(slog.LevelWarn)
			s, err := embedded.Start(t.Context(), tt.options)
			if err == nil {
				s.Close()
				t.Fatal("started")
			}
			if !strings.HasPrefix(err.Error(), "embedded NATS: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q, want %q", err, tt.want)
			}
			if log.String() != "" {
				t.Errorf("logged %s", log)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "proxima-nats-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := embedded.Start(ctx, embedded.Options{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestTwoServersDoNotShareAStore(t *testing.T) {
	o := embedded.Options{Listen: "127.0.0.1:0", StoreDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	first, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := embedded.Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another router uses it") {
		t.Errorf("the second: %v", err)
		if err == nil {
			_ = second.Close()
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third, err := embedded.Start(t.Context(), o)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := third.Close(); err != nil {
		t.Error(err)
	}
}
