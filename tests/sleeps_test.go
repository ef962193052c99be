package tests

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// bubbled is in files whose tests run on fake time: there a sleep costs nothing, and
// what it waits for has happened when it ends.
var bubbled = regexp.MustCompile(`synctest\.|natstest\.Bubble|//go:build .*faults`)

// A test that sleeps on real time until something has happened fails on a busy machine, and
// wastes time on any other: testkit.Eventually waits for it. What may sleep is a
// program that takes its time, load at a rate, and a test that something does not happen.
func TestASleepOnRealTimeSaysWhatItIsFor(t *testing.T) {
	sleeps := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		if err != nil || bubbled.Match(source) {
			return err
		}
		n := 0
		for line := range strings.Lines(string(source)) {
			n++
			if _, after, found := strings.Cut(line, "time."+"Sleep("); found {
				sleeps++
				if !strings.Contains(after, "//") {
					t.Errorf("%s:%d: no comment says what the test sleeps for; to wait for something there is testkit.Eventually", path, n)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if sleeps < 10 {
		t.Errorf("found %d sleeps: it does not see what it looks for", sleeps)
	}
}
