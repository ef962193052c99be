package main

import (
	"testing"

	"github.com/proxima-discovery/proxima/tests/load/cases"
)

// What must hold does with one seed; go run ./tests/load takes more.
func TestCasesHold(t *testing.T) {
	var some []cases.Case
	for i, c := range cases.All() {
		if i%oneIn == 0 {
			some = append(some, c)
		}
	}
	for _, r := range cases.RunAll(some, newChooser, 1, false) {
		for _, f := range r.Failed {
			t.Errorf("%s: %s", r.Case, f)
		}
	}
}
