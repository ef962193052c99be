package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// The programs of examples/, as their comments say.
func TestTheExamplesRun(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+string(filepath.Separator), "./cmd/router", "./examples/...")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the examples: %v\n%s", err, out)
	}
	router := testkit.Start(t, testkit.Command{
		Path: filepath.Join(bin, "router"),
		Args: []string{"serve", "--nats-listen=127.0.0.1:0", "--http=127.0.0.1:0", "--region=eu", "--zone=a"},
	})
	env := []string{
		"PROXIMA_NATS_URL=" + router.Stdout.Await(t, `^NATS: an embedded server at (\S+)`)[1],
		"PROXIMA_REGION=eu", "PROXIMA_ZONE=a",
	}
	router.Stdout.Await(t, `^HTTP: `)
	run := func(program string, args ...string) *testkit.Process {
		return testkit.Start(t, testkit.Command{Path: filepath.Join(bin, program), Args: args, Env: env})
	}
	prints := func(want string, p *testkit.Process) {
		t.Helper()
		if code := p.Exit(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if got := p.Stdout.String(); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("printed %q, want a match of %q", got, want)
		}
	}

	service, greeter := run("service"), run("natsservice")
	for _, p := range []*testkit.Process{service, greeter} {
		p.Stderr.Await(t, `announcement changed.* phase=registered`)
	}
	prints(`^hello-\d+ in circle zone, attempt 1: hello Ada from process \d+\n$`, run("caller"))
	prints(`^greet-\d+ \(200\): hello Ada\n$`, run("natsservice", "call", "Ada"))
	prints(`^greet-\d+: hello Ada\n$`, run("do", "Ada"))
	for _, p := range []*testkit.Process{service, greeter} {
		if code := p.Stop(); code != 0 {
			t.Errorf("told to stop, an example ended with code %d", code)
		}
	}
}

func TestTheExamplesAreShort(t *testing.T) {
	programs, err := filepath.Glob("../examples/*/main.go")
	nested, err2 := filepath.Glob("../examples/*/*/main.go")
	if err != nil || err2 != nil || len(programs)+len(nested) < 4 {
		t.Fatalf("%d examples, errors %v, %v", len(programs)+len(nested), err, err2)
	}
	for _, path := range append(programs, nested...) {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), "\n"); n >= 80 {
			t.Errorf("%s has %d lines, want fewer than 80", path, n)
		}
	}
}
