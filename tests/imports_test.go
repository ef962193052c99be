// Package tests holds what concerns more than one package.
package tests

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// heavy is what no user of the libraries has to compile: a package and all
// below it.
var heavy = []string{
	"github.com/nats-io/nats-server/v2",
	"google.golang.org/grpc",
	"go.opentelemetry.io/otel/sdk",
	"go.opentelemetry.io/otel/exporters",
	"github.com/prometheus/client_golang",
	"github.com/prometheus/procfs",
	"k8s.io/client-go",
	"github.com/docker",
	"github.com/moby",
	"github.com/alecthomas/kong",
	"github.com/coreos/go-systemd",
}

func TestImportingTheLibrariesCompilesNothingHeavy(t *testing.T) {
	for _, pkg := range []string{"selector", "kv", "proximahttp", "telemetry"} {
		t.Run(pkg, func(t *testing.T) {
			deps := dependencies(t, "./pkg/"+pkg)
			if !slices.Contains(deps, "github.com/nats-io/nats.go") {
				t.Errorf("nats.go is missing: these are not the dependencies of pkg/%s: %q", pkg, deps)
			}
			for _, dep := range deps {
				if root := under(dep, heavy); root != "" {
					t.Errorf("compiles %s", dep)
				}
				// Packages of the standard library have internal ones too.
				// Only internal/strict, which imports the standard library alone, is for both.
				if strings.HasPrefix(dep, "github.com/proxima-discovery/proxima/internal/") && !strings.HasSuffix(dep, "/internal/strict") {
					t.Errorf("compiles %s, which is for the commands", dep)
				}
			}
		})
	}
}

// The commands do compile what is heavy: what the test above would not find
// there, it would not find anywhere.
func TestTheCommandsShowThatHeavyImportsAreFound(t *testing.T) {
	var found []string
	for _, dep := range dependencies(t, "./cmd/...") {
		if root := under(dep, heavy); root != "" {
			found = append(found, root)
		}
	}
	for _, want := range []string{
		"github.com/nats-io/nats-server/v2", "google.golang.org/grpc", "go.opentelemetry.io/otel/sdk",
		"go.opentelemetry.io/otel/exporters", "github.com/prometheus/client_golang", "github.com/prometheus/procfs", "github.com/alecthomas/kong",
		"github.com/coreos/go-systemd",
	} {
		if !slices.Contains(found, want) {
			t.Errorf("%s was not found in the commands", want)
		}
	}
}

// dependencies are the packages compiled into those of the pattern.
func dependencies(t *testing.T, pattern string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", pattern)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list -deps %s: %v\n%s", pattern, err, exit.Stderr)
		}
		t.Fatal(err)
	}
	return strings.Fields(string(bytes.TrimSpace(out)))
}

// under returns the root that the package belongs to, or "".
func under(pkg string, roots []string) string {
	for _, root := range roots {
		if pkg == root || strings.HasPrefix(pkg, root+"/") {
			return root
		}
	}
	return ""
}
