package daemon_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestTheLocationIsFoundInOrder(t *testing.T) {
	dir := t.TempDir()
	labels := filepath.Join(dir, "labels")
	networks := filepath.Join(dir, "networks")
	for path, text := range map[string]string{
		labels:   "topology.kubernetes.io/zone=\"file-zone\"\nrack=\"file-rack\"\n",
		networks: "0.0.0.0/0 rack=net-rack host=net-host\n::/0 rack=net-rack host=net-host\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{
		"PROXIMA_REGION": "env-region", "SERVICE_REGION": "no-region", "SERVICE_ZONE": "service-zone", "CLIENT_ZONE": "no-zone",
	}
	for _, tt := range []struct {
		name  string
		flags daemon.LocationFlags
		env   map[string]string
		want  string
		won   map[topology.Level]string
	}{
		{"nothing", daemon.LocationFlags{}, nil, "_/_", map[topology.Level]string{}},
		{
			"environment",
			daemon.LocationFlags{},
			env, "env-region/service-zone",
			map[topology.Level]string{topology.Region: "env PROXIMA", topology.Zone: "env SERVICE"},
		},
		{
			"flags first",
			daemon.LocationFlags{Region: "r", Zone: "_", Host: "h"},
			env, "r/service-zone/_/h",
			map[topology.Level]string{topology.Region: "flags", topology.Zone: "env SERVICE", topology.Host: "flags"},
		},
		{
			"files last",
			daemon.LocationFlags{Region: "r", File: labels, CIDR: networks},
			nil, "r/file-zone/file-rack/net-host",
			map[topology.Level]string{
				topology.Region: "flags", topology.Zone: "file " + labels,
				topology.Rack: "file " + labels, topology.Host: "cidr " + networks,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(testkit.Output)
			got, err := tt.flags.Detect(t.Context(), func(k string) string { return tt.env[k] }, log.Logger(slog.LevelInfo))
			if err != nil {
				t.Fatal(err)
			}
			if got.Location.String() != tt.want {
				t.Errorf("location %s, want %s", got.Location, tt.want)
			}
			for level, by := range tt.won {
				if got.Won[level] != by {
					t.Errorf("%s: %q won, want %q", level, got.Won[level], by)
				}
			}
			if log.String() != "" {
				t.Errorf("logged %s", log)
			}
		})
	}
}

func TestALocationMeantForProximaMustBeValid(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, tt := range []struct {
		name  string
		flags daemon.LocationFlags
		env   map[string]string
		want  string
	}{
		{"flag", daemon.LocationFlags{Zone: "a b"}, nil, `--zone "a b": want 1 to 63`},
		{"variable", daemon.LocationFlags{}, map[string]string{"PROXIMA_REGION": "a.b"}, `env PROXIMA: region "a.b": want 1 to 63`},
		{"file", daemon.LocationFlags{File: missing}, nil, missing + ": no such file"},
		{"networks", daemon.LocationFlags{CIDR: missing}, nil, missing + ": no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tt.flags.Detect(t.Context(), func(k string) string { return tt.env[k] }, slog.New(slog.DiscardHandler))
			if _, ok := errors.AsType[*daemon.UsageError](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestInvalidVariablesOfOtherProgramsAreIgnored(t *testing.T) {
	log := new(testkit.Output)
	env := map[string]string{"SERVICE_ZONE": "not a zone", "CLIENT_ZONE": "b"}
	got, err := new(daemon.LocationFlags).Detect(t.Context(), func(k string) string { return env[k] }, log.Logger(slog.LevelInfo))
	if err != nil || got.Location.Zone != "b" {
		t.Errorf("location %s, error %v", got.Location, err)
	}
	if !strings.Contains(log.String(), "env SERVICE") {
		t.Errorf("logged %q", log)
	}
}
