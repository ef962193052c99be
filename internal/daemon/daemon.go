// Package daemon is the frame of Proxima's commands, from their flags to their exit
// code.
//
// A command is a struct of flags for [kong] whose subcommands have a method
//
//	Run(ctx context.Context, p *daemon.Process) error
//
// [Main] runs it in the real process; a test calls [Process.Run] with a [Process] of
// its own. Groups of flags that commands share are types of this package, with
// methods that do what the flags mean: [NATSFlags], [RegistryFlags],
// [LocationFlags], [LogFlags]. [Telemetry], [HandleHealth] and [Serve] make the
// state of a command visible. The server that some commands embed is package
// embedded.
//
// [kong]: https://pkg.go.dev/github.com/alecthomas/kong
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes, besides those of a wrapped command.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Process is the environment of a program.
type Process struct {
	// Args are the arguments without the name of the program.
	Args []string
	// Getenv reads the environment, as [os.Getenv] does.
	Getenv func(string) string
	// Stdin is what a wrapped command reads. Nil is empty.
	Stdin  *os.File
	Stdout io.Writer
	Stderr io.Writer
	// Again delivers every SIGINT and SIGTERM after the first, which ends the
	// context: the user does not want to wait. Nil: none.
	Again <-chan os.Signal
}

// Main runs a command in the real process and exits with its code. The first
// SIGINT or SIGTERM ends the context of the program; [Interrupt] returns which of
// them. The next ones go to [Process.Again], and end the process at once when the
// program does not receive them.
func Main(name, description string, cli any) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithCancelCause(context.Background())
	again := make(chan os.Signal, 1)
	go watchSignals(signals, cancel, again, func() { os.Exit(exitFailed) })
	p := &Process{os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr, again}
	os.Exit(p.Run(ctx, name, description, cli))
}

// watchSignals returns when the channel is closed: in a process never.
func watchSignals(signals <-chan os.Signal, cancel context.CancelCauseFunc, again chan<- os.Signal, exit func()) {
	first := true
	for s := range signals {
		if first {
			cancel(&interrupted{s})
			first = false
			continue
		}
		select {
		case again <- s:
		default:
			exit()
		}
	}
}

type interrupted struct{ signal os.Signal }

func (i *interrupted) Error() string { return i.signal.String() }

// Interrupt is the signal that has ended ctx, SIGTERM when ctx ended otherwise.
func Interrupt(ctx context.Context) os.Signal {
	if i, ok := errors.AsType[*interrupted](context.Cause(ctx)); ok {
		return i.signal
	}
	return syscall.SIGTERM
}

// Run parses the arguments into cli, runs their subcommand and returns the exit
// code: 0, 2 for a [UsageError], that of an [ExitError], 1 for every other error.
// The error is printed on Stderr as one line. The error of a context that ctx has
// ended is none.
func (p *Process) Run(ctx context.Context, name, description string, cli any) int {
	selected, err := p.parse(name, description, cli)
	if selected == nil && err == nil {
		return 0 // help or version was printed
	}
	if err == nil {
		selected.BindTo(ctx, (*context.Context)(nil))
		err = selected.Run(p)
	}
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return 0 // ended by ctx
	}
	code := exitFailed
	if _, ok := errors.AsType[*UsageError](err); ok {
		code = exitUsage
	}
	if exit, ok := errors.AsType[*ExitError](err); ok {
		code = exit.Code
		if exit.Err == nil {
			return code
		}
	}
	fmt.Fprintf(p.Stderr, "%s: %s\n", name, oneLine(err))
	return code
}

// IsTerminal reports whether a standard stream is a terminal, or another character
// device that is not /dev/null.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && info.Name() != "null"
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

// ExitError ends the program with a code of its own. Without an Err nothing is
// printed: the command that the program has started has printed its own error.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// UsageError marks an error of the user: wrong flags or files.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef returns a [UsageError].
func Usagef(format string, args ...any) error {
	return &UsageError{fmt.Errorf(format, args...)}
}
