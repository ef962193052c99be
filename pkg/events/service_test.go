package events_test

import (
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestValidateService(t *testing.T) {
	for _, s := range []string{
		"a", "0", "user", "user-2", "2-user", strings.Repeat("a", 63),
		"payments.user", "helloworld.Greeter", "grpc.health.v1.Health", "a.b_c.D-e", "1.a", "A.B", "a.b.c.d.e.f.g.h",
		strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 61),
	} {
		if err := events.ValidateService(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "-", "-a", "a-", "A", "a_b", "a b", "*", ">", "é", "a\x00", "a\n", "_", strings.Repeat("a", 64)} {
		checkField(t, events.ValidateService(s), "service", "want a DNS label")
	}
	for _, s := range []string{
		".", "..", "a.", ".a", "a..b", "a.b.", "a.-b", "a.b-", "a._b", "a_.b", "a.*", "a.>", "a.b=", "=a.b", "a.=b", "a. b", "a.é", "a.b\n",
		"a.1", "10.0.0.1", "a.b.c.d.e.f.g.h.i", strings.Repeat("a", 64) + ".b", "a." + strings.Repeat("b", 64),
		strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 62),
	} {
		checkField(t, events.ValidateService(s), "service", "want up to 8 labels joined by dots")
	}
}

func TestADottedServiceIsATokenForEachLabel(t *testing.T) {
	for service, want := range map[string]string{
		"user": "user", "payments.user": "payments=.=user", "grpc.health.v1.Health": "grpc=.health=.v1=.=Health",
	} {
		if got := events.ServiceTokens(service); got != want {
			t.Errorf("%s is %s, want %s", service, got, want)
		}
		k := events.Key{Service: service, Region: "eu", ID: "1"}
		if got, want := k.Inst(), "inst."+want+".eu._.1"; got != want {
			t.Errorf("the key of %s is %s, want %s", service, got, want)
		}
		if back, err := events.ParseKey(k.Inst()); err != nil || back != k {
			t.Errorf("%s is read as %+v, %v", k.Inst(), back, err)
		}
	}
}

// A key of another form would be a second place for the same instance.
func TestAServiceHasOneFormInKeys(t *testing.T) {
	for _, tokens := range []string{
		"payments.user", "payments=.user", "payments.=user", "=payments.=user", "payments==.=user", "payments=.==user", "payments=.=user=", "payments=.=us=er",
		"pay=ments=.=user", "=user", "payments=", "payments=.user=", "a=.=b.=c", "a=.=b=.=c", "=.=", ".=a", "a=.=", "a=.=1", "payments=.=user.=x",
	} {
		if k, err := events.ParseKey("inst." + tokens + ".eu.a.1"); err == nil {
			t.Errorf("%s is read as %+v", tokens, k)
		}
	}
}

// These are what users have in their permissions.
func TestAGrantIsForAServiceOrForANamespace(t *testing.T) {
	all := []string{"payments", "payments.user", "payments.user.v1", "payments.eu", "eu.user", "user"}
	for pattern, want := range map[string]string{
		"inst.payments.>":                 "payments",
		"inst.payments=.>":                "payments.user payments.user.v1 payments.eu",
		"inst.payments=.=user.>":          "payments.user",
		"inst.payments=.user=.>":          "payments.user.v1",
		"inst.*.eu.>":                     "payments user",
		"inst.*.*.eu.*.*":                 "payments.user payments.eu eu.user",
		"inst.payments=.=user.eu.*.id":    "payments.user",
		"inst.payments=.=user.other.*.id": "",
	} {
		var got []string
		for _, service := range all {
			if matches(pattern, events.Key{Service: service, Region: "eu", Zone: "a", ID: "id"}.Inst()) {
				got = append(got, service)
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s grants %q, want %q", pattern, text, want)
		}
	}
}

// matches is how NATS compares a subject with a pattern.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return len(s) > i
		case i >= len(s) || token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}
