package tests

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// role is the variable that makes this test binary another program: tests that
// need processes of their own start it again.
const role = "PROXIMA_TEST_ROLE"

var roles = map[string]func() error{
	"nats":     runNATS,
	"watchers": runWatchers,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(role); name != "" {
		if err := roles[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(testkit.Main(m))
}

// start runs this binary in another role. It is killed with the test, and ends
// by itself when its standard input does.
func start(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), role+"="+name)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}
