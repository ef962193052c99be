package telemetry_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

func TestTheDocumentationListsEveryMetric(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`proxima_[a-z_]+`)
	var listed, made []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		switch f {
		case "doc.go":
			listed = names.FindAllString(string(text), -1)
		case "metrics.go", "calls.go", "views.go", "registry.go", "source.go":
			made = append(made, names.FindAllString(string(text), -1)...)
		}
	}
	slices.Sort(listed)
	slices.Sort(made)
	if made = slices.Compact(made); !slices.Equal(listed, made) {
		t.Errorf("the package comment lists\n%q\nand these are made\n%q", listed, made)
	}
}
