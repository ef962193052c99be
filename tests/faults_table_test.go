package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// README.md of this folder says which test proves what. A name that no test has
// proves nothing.
func TestTheTableOfFaultsNamesTestsThatExist(t *testing.T) {
	table, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z/0-9]+)\\.(Test\\w+|Fuzz\\w+|Benchmark\\w+)`").FindAllStringSubmatch(string(table), -1)
	if len(named) < 40 {
		t.Fatalf("only %d tests are named", len(named))
	}
	sources := map[string]string{}
	for _, n := range named {
		dir, name := n[1], n[2]
		if _, ok := sources[dir]; !ok {
			files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			var all strings.Builder
			for _, f := range files {
				data, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				all.Write(data)
			}
			sources[dir] = all.String()
		}
		if !strings.Contains(sources[dir], "func "+name+"(") {
			t.Errorf("there is no %s in %s", name, dir)
		}
	}
}
