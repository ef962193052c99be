package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/daemon"
	"github.com/proxima-discovery/proxima/internal/testkit"
)

// greeter is a small program.
type greeter struct {
	Greet greetCommand     `cmd:"" help:"Print a greeting."`
	NATS  daemon.NATSFlags `embed:""`
	Log   daemon.LogFlags  `embed:""`
	daemon.VersionFlag
}

type greetCommand struct {
	Name    string        `required:"" help:"Who is greeted."`
	Wait    time.Duration `default:"1s" help:"How long (${default})."`
	Label   daemon.Pairs  `help:"Labels."`
	Zone    string        `env:"-" help:"No variable."`
	Outcome string        `help:"What becomes of it."`
	Rest    []string      `arg:"" optional:"" passthrough:"partial"`
}

func (g *greetCommand) Run(ctx context.Context, p *daemon.Process) error {
	switch g.Outcome {
	case "fails":
		return errors.New("no voice\nand no hands")
	case "misused":
		return daemon.Usagef("--name %q: want another", g.Name)
	case "silent 7":
		return &daemon.ExitError{Code: 7}
	case "loud 127":
		return &daemon.ExitError{Code: 127, Err: errors.New("not found")}
	case "interrupted":
		<-ctx.Done()
		return fmt.Errorf("waiting: %w", ctx.Err())
	}
	fmt.Fprintf(p.Stdout, "%s %s %v %q %q\n", g.Name, g.Wait, map[string]string(g.Label), g.Zone, g.Rest)
	return nil
}

// run runs the program in this process.
func run(ctx context.Context, env map[string]string, args ...string) (code int, stdout, stderr string) {
	var out, errOut bytes.Buffer
	p := &daemon.Process{
		Args: args, Getenv: func(k string) string { return env[k] },
		Stdout: &out, Stderr: &errOut,
	}
	code = p.Run(ctx, "greeter", "Greets.", new(greeter))
	return code, out.String(), errOut.String()
}

func Example() {
	p := &daemon.Process{
		Args:   []string{"greet", "--label", "team=a"},
		Getenv: func(name string) string { return map[string]string{"PROXIMA_NAME": "Ada"}[name] },
		Stdout: os.Stdout, Stderr: os.Stdout,
	}
	fmt.Println("exit code", p.Run(context.Background(), "greeter", "Greets.", new(greeter)))
	p.Args = []string{"greet", "--label", "team"}
	fmt.Println("exit code", p.Run(context.Background(), "greeter", "Greets.", new(greeter)))
	// Output:
	// Ada 1s map[team:a] "" []
	// exit code 0
	// greeter: --label: "team": want key=value (see greeter greet -h)
	// exit code 2
}

func TestMain(m *testing.M) {
	testkit.AtOnce(8)
	m.Run()
}

func TestAnErrorIsOneLineAndAnExitCode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stderr string
	}{
		{"no subcommand", nil, 2, `greeter: expected "greet" (see greeter -h)`},
		{"unknown subcommand", []string{"shout"}, 2, `greeter: unexpected argument shout (see greeter -h)`},
		{"unknown flag", []string{"greet", "--nam=x"}, 2, `greeter: unknown flag --nam, did you mean "--name"? (see greeter greet -h)`},
		{"missing flag", []string{"greet"}, 2, "greeter: missing flags: --name=STRING (see greeter greet -h)"},
		{"bad value", []string{"greet", "--name=x", "--wait=x"}, 2, `greeter: --wait: expected duration but got "x": time: invalid duration "x" (see greeter greet -h)`},
		{"bad level", []string{"greet", "--name=x", "--log-level=loud"}, 2, `greeter: --log-level must be one of "debug","info","warn","error" but got "loud" (see greeter greet -h)`},
		{"misused", []string{"greet", "--name=x", "--outcome=misused"}, 2, `greeter: --name "x": want another`},
		{"fails", []string{"greet", "--name=x", "--outcome=fails"}, 1, "greeter: no voice; and no hands"},
		{"silent", []string{"greet", "--name=x", "--outcome=silent 7"}, 7, ""},
		{"loud", []string{"greet", "--name=x", "--outcome=loud 127"}, 127, "greeter: not found"},
		{"well", []string{"greet", "--name=x", "--outcome=fine"}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, _, stderr := run(t.Context(), nil, tt.args...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if want := strings.TrimPrefix(tt.stderr+"\n", "\n"); stderr != want {
				t.Errorf("stderr %q, want %q", stderr, want)
			}
		})
	}
}

func TestAProgramThatASignalEndsHasNotFailed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if code, _, stderr := run(ctx, nil, "greet", "--name=x", "--outcome=interrupted"); code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestHelpShowsEveryFlagWithItsVariable(t *testing.T) {
	code, stdout, stderr := run(t.Context(), nil, "greet", "-h")
	if code != 0 || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"--name=STRING", "($PROXIMA_NAME)", "--nats-url=URL", "$PROXIMA_NATS_URL", "--wait", "(1s)", "--version", daemon.DefaultNATSURL} {
		if !strings.Contains(stdout, want) {
			t.Errorf("help lacks %q:\n%s", want, stdout)
		}
	}
	for _, unwanted := range []string{"PROXIMA_ZONE", "PROXIMA_HELP", "PROXIMA_VERSION"} {
		if strings.Contains(stdout, unwanted) {
			t.Errorf("help shows %q:\n%s", unwanted, stdout)
		}
	}
	if code, stdout, _ := run(t.Context(), nil, "-h"); code != 0 || !strings.Contains(stdout, "Print a greeting.") {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
}

func TestVersionIsPrinted(t *testing.T) {
	code, stdout, stderr := run(t.Context(), nil, "--version")
	if code != 0 || strings.TrimSpace(stdout) == "" || stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestFlagsReadTheEnvironment(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    map[string]string
		args   []string
		stdout string
	}{
		{
			"variable",
			map[string]string{"PROXIMA_NAME": "Ada", "PROXIMA_WAIT": "3s"},
			nil,
			`Ada 3s map[] "" []`,
		},
		{
			"the command line wins",
			map[string]string{"PROXIMA_NAME": "Ada", "PROXIMA_LABEL": "a=1"},
			[]string{"--name=Eve", "--label=b=2"},
			`Eve 1s map[b:2] "" []`,
		},
		{
			"an empty variable is none",
			map[string]string{"PROXIMA_NAME": "Ada", "PROXIMA_WAIT": ""},
			nil,
			`Ada 1s map[] "" []`,
		},
		{
			"pairs are joined by commas",
			map[string]string{"PROXIMA_NAME": "Ada", "PROXIMA_LABEL": "a=1, b=2=3"},
			nil,
			`Ada 1s map[a:1 b:2=3] "" []`,
		},
		{
			"no variable",
			map[string]string{"PROXIMA_NAME": "Ada", "PROXIMA_ZONE": "z"},
			nil,
			`Ada 1s map[] "" []`,
		},
		{
			"commas stay on the command line", nil,
			[]string{"--name=x", "--label", "a=1,b=2"},
			`x 1s map[a:1,b=2] "" []`,
		},
		{
			"what follows -- is left alone", nil,
			[]string{"--name=x", "--", "ls", "--name=y", "-h"},
			`x 1s map[] "" ["--" "ls" "--name=y" "-h"]`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, stdout, stderr := run(t.Context(), tt.env, append([]string{"greet"}, tt.args...)...)
			if code != 0 || stdout != tt.stdout+"\n" {
				t.Errorf("exit code %d, stdout %q, stderr %q, want %q", code, stdout, stderr, tt.stdout)
			}
		})
	}
}

func TestPairsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{"--label", "a"}, {"--label", "=1"}, {"--label", "a=1", "--label", "a=2"}, {"--label"},
	} {
		code, _, stderr := run(t.Context(), nil, append([]string{"greet", "--name=x"}, args...)...)
		if code != 2 || !strings.HasPrefix(stderr, "greeter: --label: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: exit code %d, stderr %q", args, code, stderr)
		}
	}
	code, _, stderr := run(t.Context(), map[string]string{"PROXIMA_LABEL": "a=1,b"}, "greet", "--name=x")
	if code != 2 || !strings.Contains(stderr, `"b": want key=value`) {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestLogFlags(t *testing.T) {
	for _, tt := range []struct {
		flags daemon.LogFlags
		want  string
	}{
		{daemon.LogFlags{LogLevel: "info", LogFormat: "text"}, "level=INFO msg=seen zone=a\nlevel=ERROR msg=bad\n"},
		{daemon.LogFlags{LogLevel: "error", LogFormat: "text"}, "level=ERROR msg=bad\n"},
		{daemon.LogFlags{LogLevel: "warn", LogFormat: "json"}, `{"level":"ERROR","msg":"bad"}` + "\n"},
	} {
		var out bytes.Buffer
		log := tt.flags.Logger(&out)
		log.Debug("unseen")
		log.Info("seen", "zone", "a")
		log.Error("bad")
		got := out.String()
		for line := range strings.Lines(got) { // without the time
			_, after, _ := strings.Cut(line, "level")
			if tt.flags.LogFormat == "json" {
				after = `":` + strings.TrimPrefix(after, `":`)
				got = strings.Replace(got, line, `{"level`+after, 1)
				continue
			}
			got = strings.Replace(got, line, "level"+after, 1)
		}
		if got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.flags, got, tt.want)
		}
	}
}

// serving has a default of its own for --nats-url.
type serving struct {
	NATS daemon.NATSFlags `kong:"embed,set='nats_url=',set='nats_default=ours'"`
	Run  struct{}         `cmd:""`
}

func TestACommandMayHaveAnotherDefaultForTheURL(t *testing.T) {
	var cli serving
	p := &daemon.Process{
		Args: []string{"run", "-h"}, Getenv: func(string) string { return "" },
		Stdout: new(bytes.Buffer), Stderr: new(bytes.Buffer),
	}
	if code := p.Run(t.Context(), "server", "Serves.", &cli); code != 0 || cli.NATS.URL != "" {
		t.Errorf("exit code %d, stderr %s, URL %q", code, p.Stderr, cli.NATS.URL)
	}
	if help := fmt.Sprint(p.Stdout); !strings.Contains(help, "(ours)") || strings.Contains(help, daemon.DefaultNATSURL) {
		t.Errorf("help:\n%s", help)
	}
}
