package tests

import (
	"fmt"
	"os"
	"testing"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// watchersVar makes this test binary the process of [runWatchers].
const watchersVar = "PROXIMA_TEST_WATCHERS"

func TestMain(m *testing.M) {
	if os.Getenv(watchersVar) == "" {
		natstest.Main(m)
	}
	if err := runWatchers(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// programs builds the commands and the examples and returns their directory.
func programs(tb testing.TB) string {
	tb.Helper()
	return testkit.Build(tb, "cmd/...", "examples/...")
}
