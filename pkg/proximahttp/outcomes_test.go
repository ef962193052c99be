package proximahttp_test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/proximahttp"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// The page has a row for each status, and says what ClassifyStatus does.
func TestThePageOfOutcomesIsTrue(t *testing.T) {
	page, err := os.ReadFile("../../docs/outcomes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## HTTP\n")
	table, _, _ = strings.Cut(table, "\n## ")
	row := regexp.MustCompile("(?m)^\\| (\\d+)(?:–(\\d+))?( with Retry-After| without)? \\| `(\\w+)` \\|$")
	said := make(map[string]string)
	for _, found := range row.FindAllStringSubmatch(table, -1) {
		first, _ := strconv.Atoi(found[1])
		last := first
		if found[2] != "" {
			last, _ = strconv.Atoi(found[2])
		}
		for status := first; status <= last; status++ {
			for _, retryAfter := range []bool{false, true} {
				if found[3] == " without" && retryAfter || found[3] == " with Retry-After" && !retryAfter {
					continue
				}
				at := fmt.Sprint(status, " with Retry-After: ", retryAfter)
				if said[at] != "" {
					t.Errorf("%s is there twice", at)
				}
				said[at] = found[4]
			}
		}
	}
	for status := 100; status <= 599; status++ {
		for _, retryAfter := range []bool{false, true} {
			at := fmt.Sprint(status, " with Retry-After: ", retryAfter)
			want := proximahttp.ClassifyStatus(status, retryAfter).String()
			if got := strings.ToLower(said[at]); got != want {
				t.Errorf("%s: the page says %q, ClassifyStatus %q", at, got, want)
			}
		}
	}
	for o := selector.Success; o <= selector.Local; o++ {
		name := o.String()
		if !strings.Contains(string(page), "\n| `"+strings.ToUpper(name[:1])+name[1:]+"` |") || !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("the page does not explain %s", name)
		}
	}
}
