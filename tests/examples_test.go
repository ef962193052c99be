package tests

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// The programs of examples/, as their comments say.
func TestTheExamplesRun(t *testing.T) {
	t.Parallel()
	dir := programs(t)
	router := testkit.Start(t, testkit.Command{
		Path: filepath.Join(dir, "router"),
		Args: []string{"serve", "--nats-listen=127.0.0.1:0", "--http=127.0.0.1:0", "--region=eu", "--zone=a"},
	})
	env := []string{
		"PROXIMA_NATS_URL=" + router.Stdout.Await(t, `^NATS: an embedded server at (\S+)`),
		"PROXIMA_REGION=eu", "PROXIMA_ZONE=a",
	}
	router.Stdout.Await(t, `^HTTP: `)
	run := func(program string, args ...string) *testkit.Process {
		return testkit.Start(t, testkit.Command{Path: filepath.Join(dir, program), Args: args, Env: env})
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
	prints(`^greet-\d+: hello Ada\n$`, run("natsservice", "call", "Ada"))
	if p := run("natsservice", "call", ""); p.Exit() != 1 || p.Stderr.String() != "400 a name is missing\n" {
		t.Errorf("a call that the service refuses prints %q and %q", p.Stdout, p.Stderr)
	}
	prints(`^greet-\d+: hello Ada\n$`, run("do", "Ada"))
	for _, p := range []*testkit.Process{service, greeter} {
		if code := p.Stop(); code != 0 {
			t.Errorf("told to stop, an example ended with code %d", code)
		}
	}
}

func TestTheExamplesAreShort(t *testing.T) {
	for path, source := range sources(t, "../examples/*/*.go", "../examples/*/*/*.go") {
		if n := strings.Count(source, "\n"); n >= 80 {
			t.Errorf("%s has %d lines, want fewer than 80", path, n)
		}
	}
}
