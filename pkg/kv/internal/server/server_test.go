package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/server"
)

func TestAServerIsTooOldBelowTheVersionThatLeasesNeed(t *testing.T) {
	for version, old := range map[string]bool{
		"2.9.99": true, "2.10.18": true, "2.12.12": true, "2.14.3": true, "2.14.3-RC.1": true, "1.4.1": true,
		"2.14.4": false, "2.14.4-RC.1": false, "v2.15.2": false, "2.100.0": false, "3.0.0": false, "2.16.0-dev": false,
		"unknown": false, "": false, "2.14": false, "2.-1.0": false,
	} {
		err := server.Check("nats://n1:4222", version)
		if errors.Is(err, server.ErrTooOld) != old {
			t.Errorf("%s: %v", version, err)
		}
		if err != nil && !strings.Contains(err.Error(), "nats://n1:4222 is version "+version+", and leases need "+server.Wanted+" or later: upgrade it") {
			t.Errorf("the error does not say what to do: %v", err)
		}
	}
}

func TestTheDocumentsSayWhichVersionIsWanted(t *testing.T) {
	for _, document := range []string{"README.md", "docs/how-do-i.md", "deploy/nats/README.md"} {
		text, err := os.ReadFile(filepath.Join("../../../..", document))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "nats-server "+server.Wanted+" or later") {
			t.Errorf("%s does not say nats-server %s or later", document, server.Wanted)
		}
	}
}

func TestEveryServerTellsWhatItIsToAnOrdinaryUser(t *testing.T) {
	ns := natstest.Start(t)
	all, err := server.All(t.Context(), natstest.Connect(t, ns))
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, error %v", all, err)
	}
	s := all[0]
	if s.Name != "test" || s.ID != ns.ID() || !s.JetStream || server.Check(s.Name, s.Version) != nil || s.Ahead.Abs() > time.Second {
		t.Errorf("%+v", s)
	}
	if n := server.Keeping([]server.Info{{JetStream: true, Cluster: "c"}, {Cluster: "c"}, {JetStream: true}, {JetStream: true, Cluster: "c", Domain: "d"}}, "c", ""); n != 2 {
		t.Errorf("%d servers keep streams", n)
	}
}

func TestAConnectionLacksWhatLetsItEnd(t *testing.T) {
	for _, tt := range []struct {
		options []nats.Option
		lacks   string
	}{
		{nil, "nats.MaxReconnects(-1) nats.IgnoreAuthErrorAbort()"},
		{[]nats.Option{nats.MaxReconnects(-1)}, "nats.IgnoreAuthErrorAbort()"},
		{[]nats.Option{nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.NoReconnect()}, "nats.MaxReconnects(-1)"},
		{server.Lasting(), ""},
	} {
		o := nats.GetDefaultOptions()
		for _, option := range tt.options {
			if err := option(&o); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Join(server.Ends(&o), " "); got != tt.lacks {
			t.Errorf("lacks %q, want %q", got, tt.lacks)
		}
	}
}
