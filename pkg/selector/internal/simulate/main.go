// Simulate runs the cases of tests/load with the rule of package spill alone. It is what
// go run ./tests/load runs: the rule is internal to the selector.
package main

import (
	"os"

	"github.com/proxima-discovery/proxima/tests/load/cases"
)

func main() { os.Exit(cases.Main(os.Args[1:], os.Stdout, os.Stderr, newChooser)) }
