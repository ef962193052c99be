package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// built are the programs that tests have asked for, by their packages.
var built struct {
	mu   sync.Mutex
	dirs map[string]string
}

// Build builds programs of the module, given as cmd/router or examples/..., once
// for all tests of a package, and returns their directory. It is for tests of
// more than one program: those of one start the binary of the test instead.
// TestMain must run the tests with [Main].
func Build(tb testing.TB, packages ...string) string {
	tb.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	key := strings.Join(packages, " ")
	if dir, ok := built.dirs[key]; ok {
		return dir
	}
	dir, err := build(packages)
	if err != nil {
		tb.Fatal(err)
	}
	if built.dirs == nil {
		built.dirs = map[string]string{}
	}
	built.dirs[key] = dir
	return dir
}

func build(packages []string) (string, error) {
	dir, err := os.MkdirTemp("", "proxima-programs-")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir + string(filepath.Separator)}
	for _, p := range packages {
		args = append(args, "github.com/proxima-discovery/proxima/"+p)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("build %q: %w\n%s", packages, err, out)
	}
	return dir, nil
}

// Main runs the tests of a package that uses [Build], as TestMain does, and
// returns the exit code.
func Main(m *testing.M) int {
	defer func() {
		for _, dir := range built.dirs {
			_ = os.RemoveAll(dir)
		}
	}()
	return m.Run()
}
