package policy_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/policy"
)

// full sets every field.
const full = `{
  "strategy": "consistent_hash",
  "hash_key": {"header": "x-user"},
  "where": "version>=1.4,!canary",
  "fallback": "any",
  "near": {"slack": "0s", "factor": 1.5},
  "leave": {"off": false, "price": "5ms", "within": "region", "regions": ["us-east-1", "eu-west-1"]},
  "ramp_up": "0s",
  "panic": 0.25,
  "probe": "http",
  "timeout": "2s",
  "attempt_timeout": "500ms",
  "retry": {"attempts": 3, "budget": 0, "backoff": "10ms", "on": [], "hedge": true},
  "breaker": {"failures": 3, "failure_ratio": 0.5, "min_calls": 10, "window": "10s", "open_for": "5s", "max_open_for": "1m"},
  "bulkhead": {"per_instance": 100, "adaptive": true, "per_service": 1000, "queue": 10, "queue_timeout": "50ms"},
  "overrides": [{"header": "x-version", "value": "2", "where": "version=2", "fallback": "none"}],
  "splits": [{"where": "version=2", "share": 0.1, "key": {"cookie": "sid"}, "fallback": "any"}],
  "mirror": {"where": "version=3", "share": 0.01},
  "over_code": true
}`

func decode(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Decode([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func TestADocumentIsReadAndWrittenWithAllItsFields(t *testing.T) {
	p := decode(t, full)
	data, err := policy.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if again := decode(t, string(data)); cmp.Diff(p, again) != "" {
		t.Errorf("written and read again: %s", cmp.Diff(p, again))
	}
	for line := range strings.Lines(full) { // what is zero is kept too
		name := strings.Trim(strings.SplitN(line, ":", 2)[0], " \n{}")
		if !strings.Contains(string(data), name) {
			t.Errorf("%s is lost: %s", name, data)
		}
	}
	if time.Duration(*p.RampUp) != 0 || time.Duration(p.Timeout) != 2*time.Second || *p.Retry.Budget != 0 || len(*p.Retry.On) != 0 {
		t.Errorf("%+v", p)
	}
	if data, err := policy.Encode(decode(t, "{}")); err != nil || string(data) != "{}\n" {
		t.Errorf("the empty document is %q, %v", data, err)
	}
}

func TestADocumentThatCannotBeMeantIsRefusedWithTheField(t *testing.T) {
	for text, want := range map[string]string{
		``:                       "policy: the document is empty",
		`{`:                      "policy: not JSON",
		"{\n\"strategy\":\n}":    "policy: not JSON, line 3",
		`null`:                   "policy: want a JSON object",
		`[]`:                     "policy: want a JSON object",
		`{} {}`:                  "policy: want one JSON object and nothing after it",
		`{"stategy":"p2c"}`:      `policy: stategy: no such field, did you mean "strategy"? (want one of attempt_timeout, breaker,`,
		`{"strategy":"fastest"}`: `policy: strategy "fastest": want one of p2c, nearest`,
		`{"strategy":null}`:      `policy: strategy null: want text`,
		`{"strategy":7}`:         `policy: strategy 7: want text`,
		`{"timeout":2}`:          `policy: timeout 2: want a duration from 1ms to 24h, such as "1.5s"`,
		`{"timeout":"2"}`:        `policy: timeout "2": want a duration`,
		`{"timeout":"0s"}`:       `policy: timeout "0s": want a duration from 1ms`,
		`{"timeout":"-1s"}`:      `policy: timeout "-1s": want a duration from 1ms`,
		`{"timeout":"1s","attempt_timeout":"2s"}`:  `policy: attempt_timeout 2s: want at most timeout`,
		`{"retry":{"attempts":0}}`:                 `policy: retry.attempts 0: want a whole number from 1 to 10`,
		`{"retry":{"attempts":1.5}}`:               `policy: retry.attempts 1.5: want a whole number`,
		`{"retry":{"attempts":1e0}}`:               `policy: retry.attempts 1e0: want a whole number`,
		`{"retry":{"budget":2}}`:                   `policy: retry.budget 2: want a number from 0 to 1`,
		`{"retry":{"on":["timeout"]}}`:             `policy: retry.on[0] "timeout": want one of fault, backpressure`,
		`{"retry":{"on":"fault"}}`:                 `policy: retry.on "fault": want a list`,
		`{"retry":[]}`:                             `policy: retry []: want a JSON object`,
		`{"retry":null}`:                           `policy: retry null: want a JSON object`,
		`{"retry":{"hedge":"yes"}}`:                `policy: retry.hedge "yes": want true or false`,
		`{"where":"version="}`:                     `policy: where "version=": "version=" at "": want a value`,
		`{"where":" "}`:                            `policy: where " ": want an expression`,
		`{"hash_key":{}}`:                          `policy: hash_key: want either header or cookie`,
		`{"hash_key":{"header":"a","cookie":"b"}}`: `policy: hash_key: want either header or cookie`,
		`{"hash_key":{"header":"a b"}}`:            `policy: hash_key.header "a b": want a name of letters`,
		`{"splits":[{"share":0.1}]}`:               `policy: splits[0].where: is missing`,
		`{"splits":[{"where":"a=1"}]}`:             `policy: splits[0].share: is missing`,
		`{"splits":[{"where":"a=1","share":1.1}]}`: `policy: splits[0].share 1.1: want a number from 0 to 1`,
		`{"splits":[{"where":"a=1","share":0.6},{"where":"a=2","share":0.6}]}`:                            `policy: splits[1].share 0.6: want shares that are at most 1 together`,
		`{"splits":[{"where":"a=1","share":0.1,"weight":3}]}`:                                             `policy: splits[0].weight: no such field`,
		`{"overrides":[{"where":"a=1"}]}`:                                                                 `policy: overrides[0].header: is missing`,
		`{"leave":{"regions":["us east"]}}`:                                                               `policy: leave.regions[0] "us east": want`,
		`{"breaker":{"open_for":"1m","max_open_for":"1s"}}`:                                               `policy: breaker.max_open_for 1s: want at least open_for`,
		`{"bulkhead":{"queue_timeout":"1s"}}`:                                                             `policy: bulkhead.queue_timeout 1s: want queue too`,
		`{"panic":1e400}`:                                                                                 `policy: panic 1e400: want a number from 0 to 1`,
		`{"splits":` + "[" + strings.Repeat(`{"where":"a","share":0},`, 16) + `{"where":"a","share":0}]}`: `want a list of at most 16`,
		`{"where":"` + strings.Repeat("a", 70_000) + `"}`:                                                 "want at most 65536",
	} {
		p, err := policy.Decode([]byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), "policy: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %+v, %v, want %s", text, p, err, want)
		}
		if field, ok := errors.AsType[*policy.FieldError](err); ok && field.Field == "" {
			t.Errorf("%.80s: no field in %v", text, err)
		}
	}
}

func TestThePolicyOfAServiceStandsOverThatForAll(t *testing.T) {
	base := decode(t, `{"strategy":"random","retry":{"attempts":2,"budget":0.5},"leave":{"off":true},"splits":[{"where":"a=1","share":1}],"hash_key":{"header":"a"}}`)
	over := decode(t, `{"timeout":"1s","retry":{"budget":0},"leave":{"off":false,"price":"1ms"},"hash_key":{"cookie":"b"}}`)
	want := decode(t, `{"strategy":"random","timeout":"1s","retry":{"attempts":2,"budget":0},"leave":{"off":false,"price":"1ms"},"splits":[{"where":"a=1","share":1}],"hash_key":{"cookie":"b"}}`)
	before := *base.Retry
	if got := policy.Merge(base, over); cmp.Diff(want, got) != "" {
		t.Error(cmp.Diff(want, got))
	}
	if cmp.Diff(before, *base.Retry) != "" {
		t.Error("the base was changed")
	}
	for _, p := range []*policy.Policy{nil, base} {
		if got := policy.Merge(p, nil); p != nil && cmp.Diff(p, got) != "" || p == nil && cmp.Diff(&policy.Policy{}, got) != "" {
			t.Errorf("%+v over nothing: %+v", p, got)
		}
		if got := policy.Merge(nil, p); p != nil && cmp.Diff(p, got) != "" {
			t.Errorf("nothing under %+v: %+v", p, got)
		}
	}
}

func TestADiffNamesEachFieldThatChanges(t *testing.T) {
	a := decode(t, `{"strategy":"random","retry":{"attempts":2},"splits":[{"where":"a=1","share":1}]}`)
	b := decode(t, `{"strategy":"p2c","retry":{"attempts":2,"hedge":true},"timeout":"1s"}`)
	want := []string{`+ retry.hedge: true`, `- splits: [{"where":"a=1","share":1}]`, `- strategy: "random"`, `+ strategy: "p2c"`, `+ timeout: "1s"`}
	if got := policy.Diff(a, b); cmp.Diff(want, got) != "" {
		t.Error(cmp.Diff(want, got))
	}
	if got := policy.Diff(a, a); len(got) != 0 {
		t.Errorf("of the same: %q", got)
	}
	if got := policy.Diff(nil, b); len(got) != 4 {
		t.Errorf("of a new one: %q", got)
	}
}

var update = flag.Bool("update", false, "write docs/policy.schema.json anew")

func TestTheSchemaInTheDocsIsThatOfTheTypes(t *testing.T) {
	const file = "../../docs/policy.schema.json"
	if *update {
		if err := os.WriteFile(file, policy.Schema(), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(data, policy.Schema()) {
		t.Errorf("%v, or it differs: go test ./pkg/policy -update", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{full, "{}", `{"splits":[{"where":"a=1","share":0.5}]}`, `{"timeout":"1h2m3s"}`, `{"retry":{"on":null}}`, `{"splits":[],"overrides":[],"leave":{"regions":[]}}`, "[[[[", `{"panic":-0}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policy.Decode(data)
		if err != nil {
			return
		}
		written, err := policy.Encode(p)
		if err != nil {
			t.Fatalf("%q cannot be written: %v", data, err)
		}
		again, err := policy.Decode(written)
		if err != nil || cmp.Diff(p, again) != "" || len(policy.Diff(p, again)) > 0 {
			t.Fatalf("%q written and read again: %v %s", data, err, cmp.Diff(p, again))
		}
		if merged := policy.Merge(p, p); cmp.Diff(p, merged) != "" {
			t.Fatalf("%q over itself: %s", data, cmp.Diff(p, merged))
		}
	})
}

func ExampleDecode() {
	p, err := policy.Decode([]byte(`{"strategy":"p2c","timeout":"2s","splits":[{"where":"version=2","share":0.1}]}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Strategy, p.Timeout, p.Splits[0].Where, p.Splits[0].Share)
	_, err = policy.Decode([]byte(`{"retries":{"attempts":3}}`))
	fmt.Println(strings.SplitN(err.Error(), " (", 2)[0])
	// Output:
	// p2c 2s version=2 0.1
	// policy: retries: no such field, did you mean "retry"?
}
