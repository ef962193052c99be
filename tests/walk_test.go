package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const walkHeading = "One record, from flags to a pick"

var (
	stop       = regexp.MustCompile(`^\d+\. `)
	backquoted = regexp.MustCompile("`([^`]+)`")
)

// ARCHITECTURE.md walks with one record from the flags of an announcer to a pick:
// a numbered list, each line with a file and what of it is met there.
func TestTheWalkThroughTheArchitectureNamesWhatExists(t *testing.T) {
	page, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "# "+walkHeading+"\n")
	if !ok {
		t.Fatalf("ARCHITECTURE.md has no section %q", walkHeading)
	}
	section, _, _ = strings.Cut(section, "\n#")
	stops := 0
	for line := range strings.Lines(section) {
		if !stop.MatchString(line) {
			continue
		}
		stops++
		file, names := "", []string(nil)
		for _, m := range backquoted.FindAllStringSubmatch(line, -1) {
			switch {
			case !strings.HasSuffix(m[1], ".go"):
				names = append(names, m[1])
			case file != "":
				t.Errorf("more than one file in %q", line)
			default:
				file = m[1]
			}
		}
		if file == "" || len(names) == 0 {
			t.Errorf("want a file and a function or type in backquotes in %q", line)
			continue
		}
		declared := declarations(t, file)
		for _, name := range names {
			if !declared[name] {
				t.Errorf("%s does not declare %s", file, name)
			}
		}
	}
	if stops < 8 {
		t.Errorf("the walk has %d stops, want at least 8", stops)
	}
}

// declarations are the functions and types of a file, and its methods as Type.Method.
func declarations(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return nil
	}
	declared := map[string]bool{}
	for _, d := range parsed.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = receiver(d.Recv.List[0].Type) + "." + name
			}
			declared[name] = true
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if t, ok := s.(*ast.TypeSpec); ok {
					declared[t.Name.Name] = true
				}
			}
		}
	}
	return declared
}

// receiver is the name of a method's type, without * and type parameters.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
