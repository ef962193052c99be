package demo_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/proxima-discovery/proxima/internal/demo"
)

// TestMain also makes this binary the program of an instance.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "demo-instance" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := demo.Instance(ctx, os.Args[2], os.Stdin)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestNoCallFailsWhileInstancesAreKilledPausedAndDrained(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r, err := demo.Run(t.Context(), demo.Options{Duration: demo.MinDuration, Command: []string{self, "demo-instance"}, Out: &out})
	t.Log(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed != 0 || r.Calls < 50 {
		t.Errorf("%d of %d calls failed", r.Failed, r.Calls)
	}
	for _, circle := range []string{"zone", "region", "elsewhere"} {
		if r.Circles[circle] == 0 {
			t.Errorf("no answers from circle %q: %v", circle, r.Circles)
		}
	}
	for _, want := range []string{"kill -9 user-1", "pause (SIGSTOP) user-2", "measured", "success"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}
