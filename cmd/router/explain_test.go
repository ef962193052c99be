package main

import (
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestAnExplanationNamesThePolicyAndTheRuleThatDecided(t *testing.T) {
	e := selector.Explanation{
		Service: "user", From: "eu/a", Strategy: "p2c", Where: "version=2", Rule: "override x-version: 2",
		Policy: &selector.PolicyInUse{Revision: 7, DefaultRevision: 3, Error: "policy: where: want text", Rules: []selector.PolicyRule{
			{Rule: "override x-version: 2", Where: "version=2", Instances: 4, Usable: 3},
		}},
	}
	var b strings.Builder
	if err := printExplanation(&b, e); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"policy: of the service, revision 7; for all services, revision 3\n", "the newest policy is not used: policy: where: want text\n",
		"decided by override x-version: 2: calls go to version=2\n", "override x-version: 2  version=2  4          3",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &b)
		}
	}
	e.FellBack = true
	b.Reset()
	if err := printExplanation(&b, e); err != nil || !strings.Contains(b.String(), "none of version=2 is usable, so calls go to any instance") {
		t.Errorf("%v: %s", err, &b)
	}
}
