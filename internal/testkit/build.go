package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// commands are built by the first test that asks for them.
var commands struct {
	build sync.Once
	dir   string
	err   error
}

// Commands builds the announcer and the router, once for all tests of a package,
// and returns their directory. It is for tests of more than one command: those
// of one start the binary of the test instead. TestMain must run the tests with
// [Main].
func Commands(tb testing.TB) string {
	tb.Helper()
	commands.build.Do(func() { commands.dir, commands.err = build() })
	if commands.err != nil {
		tb.Fatal(commands.err)
	}
	return commands.dir
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "proxima-commands-")
	if err != nil {
		return "", err
	}
	const module = "github.com/proxima-discovery/proxima/cmd/"
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", dir+string(filepath.Separator),
		module+"announcer", module+"router").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("build the commands: %w\n%s", err, out)
	}
	return dir, nil
}

// Main runs the tests of a package that uses [Commands], as TestMain does, and
// returns the exit code.
func Main(m *testing.M) int {
	defer func() { _ = os.RemoveAll(commands.dir) }() // "" when nothing was built
	return m.Run()
}
