package daemon

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// helpWidth is the most columns that help uses.
const helpWidth = 110

// printHelp prints the help of a command with its own flags before those that all
// commands share. The help of a whole program with shared flags has one line for each
// of them, so that it fits on a screen.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	var own, shared []*kong.Flag
	for _, f := range ctx.Model.Flags {
		if f.Group == nil {
			own = append(own, f)
		} else {
			shared = append(shared, f)
		}
	}
	selected := ctx.Selected()
	switch {
	case len(shared) == 0:
	case selected == nil:
		_, err := io.WriteString(ctx.Stdout, summary(ctx.Model, own, shared))
		return err
	default: // groups are printed in the order of their first flags; the program ends after it
		ctx.Model.Flags, selected.Flags = own, append(selected.Flags, shared...)
	}
	return kong.DefaultHelpPrinter(options, ctx)
}

// summary is the help of a whole program.
func summary(app *kong.Application, own, shared []*kong.Flag) string {
	var out strings.Builder
	fmt.Fprintf(&out, "Usage: %s%s\n\n%s\n\nCommands:\n", app.Name, app.Summary(), app.Help)
	commands, names := app.Leaves(true), 0
	for _, c := range commands {
		names = max(names, len(c.Path()))
	}
	for _, c := range commands {
		fmt.Fprintf(&out, "  %-*s  %s\n", names, c.Path(), c.Help)
	}
	flags := slices.Concat(own, shared)
	names = 0
	for _, f := range flags {
		names = max(names, len(flagName(f)))
	}
	title := "\nFlags:"
	for i, f := range flags {
		if f.Group != nil && (i == 0 || flags[i-1].Group == nil || flags[i-1].Group.Key != f.Group.Key) {
			title = f.Group.Title
		}
		if title != "" {
			fmt.Fprintln(&out, title)
			title = ""
		}
		fmt.Fprintf(&out, "  %-*s  %s\n", names, flagName(f), shorten(helpWithVariable(f.Value), helpWidth-names-4))
	}
	return out.String()
}

func flagName(f *kong.Flag) string {
	name := "--" + f.Name
	if f.Short != 0 {
		name = "-" + string(f.Short) + ", " + name
	}
	if !f.IsBool() {
		name += "=" + f.FormatPlaceHolder()
	}
	return name
}

// notes are the default and the variables at the end of a flag's help.
var notes = regexp.MustCompile(`( \([^()]*\))*\.?$`)

// shorten cuts what a flag does, so that its help fits into so many columns.
func shorten(help string, columns int) string {
	end := notes.FindStringIndex(help)[0]
	text, rest := help[:end], strings.TrimSuffix(help[end:], ".")
	if first, _, ok := strings.Cut(text, ". "); ok {
		text = first
	}
	if room := columns - len(rest); len(text) > room {
		text = text[:max(0, room-len("…"))]
		text = strings.TrimRight(text[:max(0, strings.LastIndexByte(text, ' '))], " ,;") + "…"
	}
	return text + rest
}

func helpWithVariable(v *kong.Value) string {
	if name := variable(v); name != "" {
		return strings.TrimSuffix(v.Help, ".") + " ($" + name + ")."
	}
	return v.Help
}
