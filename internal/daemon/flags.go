package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

// envPrefix is the beginning of all environment variables of flags.
const envPrefix = "PROXIMA_"

// DefaultNATSURL is the default of --nats-url.
const DefaultNATSURL = "nats://127.0.0.1:4222"

// parse returns neither a context nor an error when help or version was printed.
func (p *Process) parse(name, description string, cli any) (*kong.Context, error) {
	printed := false
	parser, err := kong.New(cli,
		kong.Name(name),
		kong.Description(description),
		kong.Writers(p.Stdout, p.Stderr),
		kong.Exit(func(int) { printed = true }),
		kong.ConfigureHelp(kong.HelpOptions{FlagsLast: true, WrapUpperBound: helpWidth}),
		kong.Help(printHelp),
		kong.ValueFormatter(helpWithVariable),
		kong.Resolvers(kong.ResolverFunc(p.resolve)),
		// Variables in the tags of flags. A subcommand may set them:
		// `kong:"embed,set='nats_url=',set='nats_default=none'"`.
		kong.Vars{"version": version(), "nats_url": DefaultNATSURL, "nats_default": DefaultNATSURL},
	)
	if err != nil {
		return nil, fmt.Errorf("the flags of %s are declared wrongly: %w", name, err)
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

// fromEnv is the value of a flag from the environment.
type fromEnv string

// resolve returns the value of a flag from the environment, for a flag that is not
// on the command line. An empty variable counts as unset.
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

// variable is the environment variable of a flag, "" for help and for flags tagged
// env:"-".
func variable(v *kong.Value) string {
	if v.Flag == nil || v.Name == "help" || len(v.Tag.Envs) > 0 {
		return ""
	}
	return envPrefix + strings.ToUpper(strings.ReplaceAll(v.Name, "-", "_"))
}

// Pairs is a flag of the form key=value that may be repeated. In its environment
// variable the pairs are joined by commas.
type Pairs map[string]string

// Decode implements kong's mapper: it adds one occurrence of the flag.
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
