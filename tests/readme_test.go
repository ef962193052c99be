package tests

import (
	"os"
	"strings"
	"testing"
)

// lines are the lines of a text without their indentation and without empty ones.
func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

func TestTheReadmeShowsCodeThatIsTested(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```go\n")
	snippet, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("README.md has no Go snippet")
	}
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if want := lines(snippet); !strings.Contains(strings.Join(lines(string(example)), "\n"), strings.Join(want, "\n")) {
		t.Errorf("the snippet of README.md is not in example_test.go:\n%s", snippet)
	}
	if n := len(lines(snippet)); n > 12 {
		t.Errorf("the snippet has %d lines, want at most 12", n)
	}
	if n := strings.Count(string(readme), "\n"); n > 120 {
		t.Errorf("README.md has %d lines, want at most 120", n)
	}
}
