package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var commands struct {
	once sync.Once
	dir  string
	err  error
	out  []byte
}

// Commands builds the announcer and the router, once for all tests of a package,
// and returns their directory. It is for tests of more than one command: those
// of one start the binary of the test instead. TestMain must run the tests with
// [Main].
func Commands(tb testing.TB) string {
	tb.Helper()
	c := &commands
	c.once.Do(func() {
		if c.dir, c.err = os.MkdirTemp("", "proxima-commands-"); c.err != nil {
			return
		}
		const module = "github.com/proxima-discovery/proxima/cmd/"
		c.out, c.err = exec.Command("go", "build", "-buildvcs=false", "-o", c.dir+string(filepath.Separator),
			module+"announcer", module+"router").CombinedOutput()
	})
	if c.err != nil {
		tb.Fatalf("build the commands: %v\n%s", c.err, c.out)
	}
	return c.dir
}

// Main runs the tests of a package that uses [Commands] and returns the exit
// code.
func Main(m *testing.M) int {
	defer func() { _ = os.RemoveAll(commands.dir) }() // "" when nothing was built
	return m.Run()
}
