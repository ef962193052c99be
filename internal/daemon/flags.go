package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// envPrefix begins the environment variable of every flag.
const envPrefix = "PROXIMA_"

// DefaultNATSURL is where the commands look for NATS.
const DefaultNATSURL = "nats://127.0.0.1:4222"

// parse returns neither a context nor an error when help was asked for.
func (p *Process) parse(name, description string, cli any) (*kong.Context, error) {
	printed := false
	parser, err := kong.New(cli,
		kong.Name(name),
		kong.Description(description),
		kong.Writers(p.Stdout, p.Stderr),
		kong.Exit(func(int) { printed = true }),
		kong.ConfigureHelp(kong.HelpOptions{FlagsLast: true, WrapUpperBound: 110}),
		kong.ValueFormatter(helpWithVariable),
		kong.Resolvers(kong.ResolverFunc(p.resolve)),
		// Variables of tags, which a subcommand may have set otherwise:
		// `kong:"embed,set='nats_url=',set='nats_default=none'"`.
		kong.Vars{"version": version(), "nats_url": DefaultNATSURL, "nats_default": DefaultNATSURL},
	)
	if err != nil {
		return nil, fmt.Errorf("the flags of %s are ill defined: %w", name, err)
	}
	selected, err := parser.Parse(p.Args)
	switch {
	case printed:
		return nil, nil
	case err != nil:
		if e, ok := errors.AsType[*kong.ParseError](err); ok && e.Context != nil && e.Context.Selected() != nil {
			name = e.Context.Selected().FullPath()
		}
		return nil, Usagef("%w (see %s -h)", err, name)
	}
	return selected, nil
}

// VersionFlag is the --version of a command.
type VersionFlag struct {
	Version kong.VersionFlag `help:"Print the version and exit." env:"-"`
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return cmp.Or(info.Main.Version, "(devel)")
}

// fromEnv is a flag's value that came from the environment.
type fromEnv string

// resolve gives a flag that is not on the command line its value from the
// environment. An empty variable is none.
func (p *Process) resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	name := variable(flag.Value)
	if name == "" {
		return nil, nil
	}
	v := p.Getenv(name)
	switch {
	case v == "":
		return nil, nil
	case flag.IsMap():
		return fromEnv(v), nil
	}
	return v, nil
}

// variable is the environment variable of a flag, "" if it has none: help,
// and what is tagged env:"-".
func variable(v *kong.Value) string {
	if v.Flag == nil || v.Name == "help" || len(v.Tag.Envs) > 0 {
		return ""
	}
	return envPrefix + strings.ToUpper(strings.ReplaceAll(v.Name, "-", "_"))
}

func helpWithVariable(v *kong.Value) string {
	if name := variable(v); name != "" {
		return strings.TrimSuffix(v.Help, ".") + " ($" + name + ")."
	}
	return v.Help
}

// Pairs is a flag given as key=value, once per pair. In its environment
// variable the pairs are joined by commas.
type Pairs map[string]string

// Decode reads one occurrence of the flag.
func (p *Pairs) Decode(ctx *kong.DecodeContext) error {
	token, err := ctx.Scan.PopValue("key=value")
	if err != nil {
		return err
	}
	if *p == nil {
		*p = Pairs{}
	}
	if env, ok := token.Value.(fromEnv); ok {
		for pair := range strings.SplitSeq(string(env), ",") {
			if err := p.add(strings.TrimSpace(pair)); err != nil {
				return err
			}
		}
		return nil
	}
	return p.add(token.String())
}

func (p *Pairs) add(pair string) error {
	key, value, ok := strings.Cut(pair, "=")
	if !ok || key == "" {
		return fmt.Errorf("%q: want key=value", pair)
	}
	if _, twice := (*p)[key]; twice {
		return fmt.Errorf("%q is given twice", key)
	}
	(*p)[key] = value
	return nil
}
