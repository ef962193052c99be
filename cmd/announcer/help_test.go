package main

import (
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

func TestHelpFitsAScreenAndHidesNothing(t *testing.T) {
	help := func(args ...string) string {
		var out testkit.Output
		p := daemon.Process{Args: append(args, "-h"), Getenv: func(string) string { return "" }, Stdout: &out, Stderr: &out}
		if code := p.Run(t.Context(), "announcer", description, new(cli)); code != 0 {
			t.Errorf("exit code %d", code)
		}
		return out.String()
	}
	short := help()
	if n := strings.Count(short, "\n"); n > 40 {
		t.Errorf("%d lines:\n%s", n, short)
	}
	for line := range strings.Lines(short) {
		if n := len([]rune(line)) - 1; n > 110 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	run := help("run")
	for line := range strings.Lines(short) {
		if flag, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "-h, "), "="); ok && strings.HasPrefix(flag, "--") && !strings.Contains(run, flag+"=") {
			t.Errorf("announcer run -h does not show %s", flag)
		}
	}
	at := 0
	for _, group := range []string{"Flags:", "Instance:", "Checks:", "Load:", "Location:", "NATS:", "Logging, health and metrics:"} {
		next := strings.Index(run, "\n"+group+"\n")
		if next < at {
			t.Errorf("group %s is missing, or not in this order", group)
		}
		at = next
	}
}
