// Load shows when calls leave a circle, and what they gain: it simulates the cases of
// tests/load/cases and prints a table. See README.md.
//
// The rule is internal to the selector, so the program that runs it is there too. This one
// builds and starts it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

const simulate = "github.com/proxima-discovery/proxima/pkg/selector/internal/simulate"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is the program: 0: all cases hold; 1: one does not; 2: bad input.
func run(args []string, stdout, stderr io.Writer) int {
	code, err := start(args, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "load:", err)
		return 1
	}
	return code
}

func start(args []string, stdout, stderr io.Writer) (code int, err error) {
	dir, err := os.MkdirTemp("", "load")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "simulate.exe")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin, simulate)
	build.Stderr = stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build the simulation: %w", err)
	}
	program := exec.Command(bin, args...)
	program.Stdout, program.Stderr = stdout, stderr
	err = program.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exit.ExitCode(), nil
	}
	return 0, err
}
