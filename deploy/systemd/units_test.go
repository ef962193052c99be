package systemd_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// line is the value of a setting in a unit.
func line(t *testing.T, unit, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(unit)
	if m == nil {
		t.Fatalf("no %s=", name)
	}
	return m[1]
}

func TestTheUnitsStartTheCommandsAndLeaveThemTimeToEnd(t *testing.T) {
	programs := testkit.Build(t, "cmd/announcer", "cmd/router")
	dir := t.TempDir()
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) < 2 {
		t.Fatalf("%q, %v", units, err)
	}
	sockets, _ := filepath.Glob("*.socket")
	for _, name := range append(units, sockets...) {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		unit := strings.ReplaceAll(string(data), "/usr/local/bin", programs)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(unit), 0o600); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, ".service") {
			continue
		}
		argv := strings.Fields(line(t, unit, "ExecStart"))
		help, err := exec.Command(argv[0], append(argv[1:], "--help")...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %q: %v\n%s", name, argv, err, help)
		}
		// The defaults of --drain and --grace.
		needs := time.Second
		for _, m := range regexp.MustCompile(`\((\d+s)\)\s+\(\$PROXIMA_(?:DRAIN|GRACE)\)`).FindAllSubmatch(help, -1) {
			d, err := time.ParseDuration(string(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			needs += d
		}
		if stop, err := time.ParseDuration(line(t, unit, "TimeoutStopSec")); err != nil || stop < needs || needs == time.Second {
			t.Errorf("%s: TimeoutStopSec=%v, %v, and it needs %v", name, stop, err, needs)
		}
		for setting, want := range map[string]string{"Type": "notify", "DynamicUser": "yes", "ProtectSystem": "strict"} {
			if got := line(t, unit, setting); got != want {
				t.Errorf("%s: %s=%s, want %s", name, setting, got, want)
			}
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed: the units are not verified by systemd")
		return
	}
	args := []string{"verify"}
	for _, name := range append(units, sockets...) {
		args = append(args, filepath.Join(dir, name))
	}
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
