package daemon_test

import (
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/daemon"
)

// shared has flags that two commands share.
type shared struct {
	One struct {
		Own string `group:"Own:" help:"Its own."`
	} `cmd:"" help:"The one command."`
	Other struct{} `cmd:"" help:"The other command."`

	Wide string           `group:"Words:" default:"x" help:"What this does takes many words, so many that they do not fit into one line of a screen, whatever its width (${default})."`
	NATS daemon.NATSFlags `embed:"" group:"NATS:"`
	daemon.VersionFlag
}

func TestHelpOfAProgramHasALineForEachSharedFlag(t *testing.T) {
	help := func(args ...string) string {
		var out strings.Builder
		p := &daemon.Process{Args: append(args, "-h"), Getenv: func(string) string { return "" }, Stdout: &out, Stderr: &out}
		if code := p.Run(t.Context(), "shared", "Shares.", new(shared)); code != 0 {
			t.Errorf("exit code %d", code)
		}
		return out.String()
	}
	all := help()
	for line := range strings.Lines(all) {
		if n := len([]rune(line)) - 1; n > 110 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{
		"Shares.", "  one    The one command.\n", "\nFlags:\n  -h, --help ", "\nWords:\n  --wide=\"x\" ", "… (x) ($PROXIMA_WIDE)\n", "\nNATS:\n  --nats-url=URL ",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	one := help("one")
	if own, words := strings.Index(one, "\nOwn:\n"), strings.Index(one, "\nWords:\n"); own < 0 || words < own {
		t.Errorf("the flags of the command do not come first:\n%s", one)
	}
}
