package policy_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/policy"
)

const (
	page        = "../../docs/policies.md"
	tableBegins = "<!-- fields: go test ./pkg/policy -update -->\n"
	tableEnds   = "<!-- end of fields -->\n"
)

// rows are those of the table of fields, by the tags of the types.
func rows(t reflect.Type, path string) string {
	var all strings.Builder
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		is := f.Type
		if is.Kind() == reflect.Pointer {
			is = is.Elem()
		}
		inner := path + name + "."
		if is.Kind() == reflect.Slice {
			if inner = path + name + "[]."; is.Elem().Kind() == reflect.Struct {
				is = is.Elem()
			}
		}
		doc := f.Tag.Get("doc")
		if _, must := f.Tag.Lookup("must"); must {
			doc += " It must be there."
		}
		fmt.Fprintf(&all, "| `%s` | %s | %s |\n", path+name, kind(f), doc)
		if is.Kind() == reflect.Struct {
			all.WriteString(rows(is, inner))
		}
	}
	return all.String()
}

// kind is what a field may be.
func kind(f reflect.StructField) string {
	tag, is := f.Tag, f.Type
	if is.Kind() == reflect.Pointer {
		is = is.Elem()
	}
	list := ""
	if is.Kind() == reflect.Slice {
		is, list = is.Elem(), "list of "
	}
	within := ""
	if tag.Get("max") != "" {
		within = fmt.Sprintf(", %s to %s", tag.Get("min"), tag.Get("max"))
	}
	switch {
	case tag.Get("enum") != "":
		return list + "`" + strings.ReplaceAll(tag.Get("enum"), ",", "`, `") + "`"
	case is == reflect.TypeFor[policy.Duration]():
		return "duration" + within
	case is.Kind() == reflect.Struct && list != "":
		return "list, at most " + tag.Get("most")
	case is.Kind() == reflect.Struct:
		return "object"
	case is.Kind() == reflect.Bool:
		return "true or false"
	case is.Kind() == reflect.Int:
		return "whole number" + within
	case is.Kind() == reflect.Float64:
		return "number" + within
	}
	return list + map[string]string{"subset": "expression", "token": "name", "name": "name", "": "text"}[tag.Get("is")]
}

func TestTheTableInTheDocsIsThatOfTheTypes(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), tableBegins)
	_, after, ended := strings.Cut(rest, tableEnds)
	if !ok || !ended {
		t.Fatal("the marks of the table are gone")
	}
	want := before + tableBegins + "\n| field | value | what it says |\n|---|---|---|\n" + rows(reflect.TypeFor[policy.Policy](), "") + "\n" + tableEnds + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	} else if string(data) != want {
		t.Error("it differs: go test ./pkg/policy -update")
	}
}

func TestTheExamplesInTheDocsArePolicies(t *testing.T) {
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(data), -1)
	if len(examples) < 5 {
		t.Errorf("only %d examples", len(examples))
	}
	for _, example := range examples {
		if _, err := policy.Decode([]byte(example[1])); err != nil {
			t.Errorf("%v: %s", err, example[1])
		}
	}
}
