package events_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestKeysAreToTheLetterOfTheContract(t *testing.T) {
	for _, tt := range []struct {
		k    events.Key
		want string
	}{
		{events.Key{Service: "user", Region: "us-east-1", Zone: "us-east-1a", ID: "user-7f3a"}, "user.us-east-1.us-east-1a.user-7f3a"},
		{events.Key{Service: "user", ID: "1"}, "user._._.1"},
		{events.Key{Service: "user", Zone: "A_b", ID: "_"}, "user._.A_b._"},
	} {
		if got := tt.k.String(); got != tt.want {
			t.Errorf("%+v is %s, want %s", tt.k, got, tt.want)
		}
		if got := tt.k.Inst(); got != "inst."+tt.want {
			t.Errorf("record of %+v is %s, want inst.%s", tt.k, got, tt.want)
		}
		if got := tt.k.Lease(); got != "lease."+tt.want {
			t.Errorf("lease of %+v is %s, want lease.%s", tt.k, got, tt.want)
		}
		if got := tt.k.Ping(); got != "ping."+tt.want {
			t.Errorf("pings of %+v go to %s, want ping.%s", tt.k, got, tt.want)
		}
		back, err := events.ParseKey(tt.k.Inst())
		if err != nil || back != tt.k {
			t.Errorf("%s is %+v, %v, want %+v", tt.k.Inst(), back, err, tt.k)
		}
	}
}

func TestTheKeyOfAnInstanceHasNoUnknownPlaces(t *testing.T) {
	in := events.Instance{ID: "1", Service: "user", Location: topology.Location{Region: "_", Zone: "a"}}
	if got, want := in.Key(), (events.Key{Service: "user", Zone: "a", ID: "1"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestThePlaceOfAnInstanceHasItsMetadataAsLabels(t *testing.T) {
	in := user()
	room := topology.Levels{"team", topology.Zone}
	if got := room.Circle(in.Place(), topology.Place{Location: in.Location, Labels: map[string]string{"team": "a"}}); got != 0 {
		t.Errorf("circle %d, want 0", got)
	}
}

func TestParseKeyNamesTheFieldAndTheRule(t *testing.T) {
	shape := "want inst.<service>.<region>.<zone>.<id>"
	name := topology.NameRule
	for _, tt := range []struct{ key, field, rule string }{
		{"", "key", shape},
		{"inst", "key", shape},
		{"inst.", "key", shape},
		{"inst.user.r.z", "key", shape},
		{"inst.user.r.z.1.2", "key", shape},
		{"inst.user.r.z.", "key", shape},
		{"inst.user..z.1", "key", shape},
		{"inst.user.r..1", "key", shape},
		{"inst..r.z.1", "key", shape},
		{"lease.user.r.z.1", "key", shape},
		{"Inst.user.r.z.1", "key", shape},
		{"inst.User.r.z.1", "service", "want a DNS label"},
		{"inst._.r.z.1", "service", "want a DNS label"},
		{"inst.*.r.z.1", "service", "want a DNS label"},
		{"inst.user.r r.z.1", "region", name},
		{"inst.user.r.>.1", "zone", name},
		{"inst.user.r.z.é", "id", name},
		{"inst.user.r.z.1\n", "id", name},
		{"inst.user.r.z." + strings.Repeat("x", 64), "id", name},
	} {
		k, err := events.ParseKey(tt.key)
		fe, ok := errors.AsType[*events.FieldError](err)
		if !ok || fe.Field != tt.field || !strings.HasPrefix(fe.Rule, tt.rule) {
			t.Errorf("%q: got %v, want field %s, rule %s", tt.key, err, tt.field, tt.rule)
		}
		if k != (events.Key{}) {
			t.Errorf("%q is refused and still %+v", tt.key, k)
		}
	}
}

func TestAKeyHasOneForm(t *testing.T) {
	for _, k := range []events.Key{
		{Service: "user", Region: "_", ID: "1"},
		{Service: "user", Zone: "_", ID: "1"},
	} {
		if err := k.Validate(); err == nil {
			t.Errorf("%+v is valid, and so is the same with an empty place", k)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"inst.user.us-east-1.us-east-1a.user-7f3a", "inst.user._._.1", "inst.user...1", "lease.user.r.z.1", "inst.a.b.c.d.e", "inst.payments=.=user.eu._.1", "inst.a=.b=.=C.r.z.1", "inst.a=.b.r.z.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := events.ParseKey(s)
		if rest, ok := strings.CutPrefix(s, "inst."); ok {
			if beat, e := events.ParseBeatKey("beat." + rest); (e == nil) != (err == nil) || beat != k {
				t.Fatalf("%q is %+v, %v; as a beat it is %+v, %v", s, k, err, beat, e)
			}
		}
		if err != nil {
			if k != (events.Key{}) {
				t.Fatalf("%q is refused and still %+v", s, k)
			}
			return
		}
		if k.Inst() != s {
			t.Fatalf("%q is written %q", s, k.Inst())
		}
		checkTokens(t, k)
	})
}

// checkTokens wants a key that is four tokens of a subject and those of the service,
// whatever the names.
func checkTokens(t *testing.T, k events.Key) {
	t.Helper()
	if err := k.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{k.Inst(), k.Lease(), k.Beat(), k.Ping()} {
		tokens := strings.Split(s, ".")
		if len(tokens) != 5+strings.Count(k.Service, ".") || len(s) > 5+1+4*64+253 {
			t.Fatalf("%q is %d tokens, %d bytes", s, len(tokens), len(s))
		}
		for _, token := range tokens {
			if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == '>' || r == '$' || r == '/' }) {
				t.Fatalf("%q has the token %q", s, token)
			}
		}
	}
	if back, err := events.ParseKey(k.Inst()); err != nil || back != k {
		t.Fatalf("%q is read as %+v, %v", k.Inst(), back, err)
	}
}
