package subset_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/subset"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func instance() *events.Instance {
	return &events.Instance{
		ID: "user-1", Service: "user", Version: "1.4.2",
		Location: topology.Location{Region: "us-east-1", Zone: "us-east-1a", Host: "node-3"},
		Metadata: map[string]string{"team": "a", "tier": "3", "zone": "blue", "empty": "", "eu.example/owner": "x"},
	}
}

func TestAnExpressionMatchesAsInKubernetes(t *testing.T) {
	for text, want := range map[string]bool{
		"":                          true,
		"  ":                        true,
		"team=a":                    true,
		"team==a":                   true,
		" team = a ":                true,
		"team=b":                    false,
		"team!=b":                   true,
		"team!=a":                   false,
		"missing!=a":                true,
		"missing=a":                 false,
		"team in (a,b)":             true,
		"team in ( b , c )":         false,
		"team in(a)":                true,
		"team notin (b,c)":          true,
		"team notin (a)":            false,
		"missing notin (a)":         true,
		"missing in (a)":            false,
		"team":                      true,
		"empty":                     true,
		"missing":                   false,
		"!missing":                  true,
		"! team":                    false,
		"team=a,!canary,tier":       true,
		"team=a,tier=4":             false,
		"tier>2":                    true,
		"tier>=3,tier<=3":           true,
		"tier<3":                    false,
		"team>1":                    false,
		"missing<1":                 false,
		"version=1.4.2":             true,
		"version=1.4":               false,
		"version>=1.4.0,version<2":  true,
		"version>=1.4":              true,
		"version>v1.4.2":            false,
		"version<=1.4.2":            true,
		"version<1.4.2-rc.1":        false,
		"version>1.4.2-rc.1":        true,
		"region=us-east-1":          true,
		"zone!=us-east-1a":          false,
		"zone=us-east-1a":           true,
		"metadata.zone=blue":        true,
		"metadata.team=a":           true,
		"!rack":                     true,
		"rack":                      false,
		"host=node-3,id=user-1":     true,
		"eu.example/owner in (x,y)": true,
		"in":                        false,
		"!in,!notin":                true,
	} {
		s, err := subset.Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := s.Matches(instance()); got != want {
			t.Errorf("%q (%s) matches: %t, want %t", text, s, got, want)
		}
	}
}

func TestAPrereleaseComesBeforeItsRelease(t *testing.T) {
	for version, want := range map[string]bool{"2.0.0-rc.1": true, "2.0.0": false, "v1.9": true, "1": true, "2": false, "latest": false, "": false} {
		s, err := subset.Parse("version<2")
		if err != nil {
			t.Fatal(err)
		}
		in := instance()
		in.Version = version
		if got := s.Matches(in); got != want {
			t.Errorf("%q: %t, want %t", version, got, want)
		}
	}
}

func TestSubsetsOfOneMeaningHaveOneText(t *testing.T) {
	for _, same := range [][]string{
		{"a=1,version>=1.4", "version >= v1.4 , a == 1", "a in (1),version>=1.4,a=1", "metadata.a=1,version>=1.4"},
		{"a in (x,y)", "a in (y,x,y)"},
		{"a!=1", "a notin (1)"},
		{"metadata.zone=a", "metadata.zone==a"},
		{"!a,b", "b,! a"},
		{"n<7", "n < 07"},
	} {
		for _, text := range same {
			s, err := subset.Parse(text)
			if err != nil {
				t.Errorf("%q: %v", text, err)
			} else if s.String() != same[0] {
				t.Errorf("%q is %q, want %q", text, s, same[0])
			}
		}
	}
}

func TestAnExpressionThatCannotBeReadSaysWhereAndWhatIsWanted(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("a=1,", subset.MaxRequirements+1), ",")
	values := "a in (" + strings.TrimSuffix(strings.Repeat("v,", subset.MaxValues+1), ",") + ")"
	for text, want := range map[string]string{
		"version=":                              `at "": want a value`,
		"=2":                                    `at "=2": want a key`,
		"a=1,":                                  `at "": want a requirement after the comma`,
		",a=1":                                  `at ",a=1": want a key`,
		"a=1 b=2":                               `at "b=2": want a comma before the next requirement`,
		"a~1":                                   "",
		"a b":                                   `at "b": want =, !=`,
		"a in x":                                `at "x": want values in parentheses`,
		"a in ()":                               `at ")": want a value`,
		"a in (x":                               `at "": want a comma or )`,
		"a in (x y)":                            `at "y)": want a comma or )`,
		"version>=one":                          `at "one": want a version`,
		"version>=1.x":                          `at "1.x": want a version`,
		"zone>a":                                `at "a": want = or !=: only versions`,
		"tier>high":                             `at "high": want a whole number`,
		"!":                                     `at "": want a key`,
		"!a=1":                                  `at "=1": want a comma`,
		"metadata.=1":                           "want a key after metadata.",
		`a="x"`:                                 `at "\"x\"": want a value`,
		"a=\x00":                                "want a value",
		many:                                    "want at most 32 requirements",
		values:                                  "want at most 64 values",
		strings.Repeat("a", subset.MaxLength+1): "an expression of 1025 bytes, want at most 1024",
	} {
		_, err := subset.Parse(text)
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", text, err) // a key with a tilde
			}
			continue
		}
		if parse, ok := errors.AsType[*subset.Error](err); !ok || parse.Text != text || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50q: %v, want %s", text, err, want)
		}
	}
}

func TestMatchingDoesNotAllocate(t *testing.T) {
	s, err := subset.Parse("version>=1.4.0,version<2,team in (a,b),!canary,zone!=us-east-1b,tier>1")
	if err != nil {
		t.Fatal(err)
	}
	in := instance()
	if n := testing.AllocsPerRun(100, func() { s.Matches(in) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "a=1", "version>=1.4,version<2,team in (a,b),!canary,zone!=us-east-1a", "a notin (x,y),b", "metadata.metadata.x=1", "n<-3", "a in("} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := subset.Parse(text)
		if err != nil {
			_ = err.Error()
			return
		}
		again, err := subset.Parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("%q is %q, and that is %v, %v", text, s, again, err)
		}
		if in := instance(); s.Matches(in) != again.Matches(in) {
			t.Fatalf("%q and %q differ", text, s)
		}
	})
}

func BenchmarkMatches(b *testing.B) {
	for _, text := range []string{"version=1.4.2", "team in (a,b),!canary", "version>=1.4.0,version<2"} {
		s, err := subset.Parse(text)
		if err != nil {
			b.Fatal(err)
		}
		in := instance()
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Matches(in)
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := subset.Parse("version>=1.4.0,version<2,team in (a,b),!canary"); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleParse() {
	canary, err := subset.Parse("version>=2, team in (b,a)")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(canary)
	fmt.Println(canary.Matches(&events.Instance{Version: "2.1.0", Metadata: map[string]string{"team": "a"}}))
	fmt.Println(canary.Matches(&events.Instance{Version: "1.9.3", Metadata: map[string]string{"team": "a"}}))
	_, err = subset.Parse("version>=two")
	fmt.Println(err)
	// Output:
	// team in (a,b),version>=2
	// true
	// false
	// subset: "version>=two" at "two": want a version, such as 2, 1.4 or 1.4.0-rc.1
}
