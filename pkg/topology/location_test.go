package topology_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestParseLocationReadsWhatStringWrites(t *testing.T) {
	for _, tt := range []struct {
		s    string
		want topology.Location
		back string
	}{
		{"", topology.Location{}, "_/_"},
		{"_", topology.Location{}, "_/_"},
		{"_/_/_/_", topology.Location{}, "_/_"},
		{"us-east-1", topology.Location{Region: "us-east-1"}, "us-east-1/_"},
		{"us-east-1/", topology.Location{Region: "us-east-1"}, "us-east-1/_"},
		{"/us-east-1a", topology.Location{Zone: "us-east-1a"}, "_/us-east-1a"},
		{"r/z", topology.Location{Region: "r", Zone: "z"}, "r/z"},
		{"r/z/r12", topology.Location{Region: "r", Zone: "z", Rack: "r12"}, "r/z/r12"},
		{"r/z//node 3.example.com", topology.Location{Region: "r", Zone: "z", Host: "node 3.example.com"}, "r/z/_/node 3.example.com"},
		{"r/z/r12/node-3", topology.Location{Region: "r", Zone: "z", Rack: "r12", Host: "node-3"}, "r/z/r12/node-3"},
		{"r/z/ré/hôte", topology.Location{Region: "r", Zone: "z", Rack: "ré", Host: "hôte"}, "r/z/ré/hôte"},
	} {
		got, err := topology.ParseLocation(tt.s)
		if err != nil || got != tt.want {
			t.Errorf("location %q is %+v, %v, want %+v", tt.s, got, err, tt.want)
		}
		if got.String() != tt.back {
			t.Errorf("location %q is written %q, want %q", tt.s, got, tt.back)
		}
	}
}

func TestParseLocationNamesTheFieldAndTheRule(t *testing.T) {
	name := "want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'"
	place := "want at most 255 bytes of printable text without '/'"
	for _, tt := range []struct{ s, want string }{
		{"us east", `topology: location: region "us east": ` + name},
		{" r/z", `topology: location: region " r": ` + name},
		{"us.east/z", `topology: location: region "us.east": ` + name},
		{"r/*", `topology: location: zone "*": ` + name},
		{"r/>", `topology: location: zone ">": ` + name},
		{"r/zürich", `topology: location: zone "zürich": ` + name},
		{"r/z\n", `topology: location: zone "z\n": ` + name},
		{strings.Repeat("r", 64), `topology: location: region "` + strings.Repeat("r", 64) + `": ` + name},
		{"r/z/a\x00b", `topology: location: rack "a\x00b": ` + place},
		{"r/z/a/\xff", `topology: location: host "\xff": ` + place},
		{"r/z/a/" + strings.Repeat("h", 256), `topology: location: host "` + strings.Repeat("h", 80) + `…": ` + place},
		{"a/b/c/d/e", `topology: location "a/b/c/d/e" has more than 4 parts, want region/zone[/rack[/host]]`},
		{"a/b/c/d/", `topology: location "a/b/c/d/" has more than 4 parts, want region/zone[/rack[/host]]`},
	} {
		got, err := topology.ParseLocation(tt.s)
		if err == nil || err.Error() != tt.want {
			t.Errorf("location %q:\n got %v\nwant %v", tt.s, err, tt.want)
		}
		if got != (topology.Location{}) {
			t.Errorf("location %q is refused and still %+v", tt.s, got)
		}
	}
}

func TestValidateRefusesWhatHasNoWrittenForm(t *testing.T) {
	for _, tt := range []struct {
		l     topology.Location
		field topology.Level
	}{
		{topology.Location{}, ""},
		{topology.Location{Region: strings.Repeat("r", 63), Zone: "A-Z_09", Rack: "7 left", Host: "x.example.com"}, ""},
		{topology.Location{Region: "_"}, topology.Region},
		{topology.Location{Zone: "_"}, topology.Zone},
		{topology.Location{Rack: "_"}, topology.Rack},
		{topology.Location{Host: "_"}, topology.Host},
		{topology.Location{Zone: "a/b"}, topology.Zone},
		{topology.Location{Rack: "a/b"}, topology.Rack},
		{topology.Location{Region: "a.b", Zone: "*", Rack: "/", Host: "\t"}, topology.Region},
	} {
		err := tt.l.Validate()
		var field topology.Level
		if fe, ok := errors.AsType[*topology.FieldError](err); ok {
			field = fe.Field
		}
		if field != tt.field || (err == nil) != (tt.field == "") {
			t.Errorf("%+v: got %v, want an error of field %q", tt.l, err, tt.field)
		}
	}
}

func TestNormalizeEmptiesWhatIsUnknown(t *testing.T) {
	l := topology.Location{Region: "_", Zone: "z", Rack: "_", Host: "_h"}
	l.Normalize()
	if want := (topology.Location{Zone: "z", Host: "_h"}); l != want {
		t.Errorf("got %+v, want %+v", l, want)
	}
}

func FuzzParseLocation(f *testing.F) {
	for _, s := range []string{"", "_", "r", "r/z", "r/z/rack/host", "//", "_/_/_/h", "a/b/c/d/e", "r/\xff", "ü/z", "r/z/ü/\u200b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := topology.ParseLocation(s)
		if err != nil {
			if l != (topology.Location{}) {
				t.Fatalf("refused and still %+v", l)
			}
			return
		}
		if err := l.Validate(); err != nil {
			t.Fatalf("%q was accepted: %v", s, err)
		}
		back, err := topology.ParseLocation(l.String())
		if err != nil || back != l {
			t.Fatalf("%q is %+v, written %q, read as %+v, %v", s, l, l, back, err)
		}
		if strings.ContainsAny(l.Region+l.Zone, " .*>/") {
			t.Fatalf("%q gives names that are no tokens: %+v", s, l)
		}
	})
}

func FuzzLocationString(f *testing.F) {
	f.Add("r", "z", "", "h")
	f.Add("_", "", "a/b", "\n")
	f.Fuzz(func(t *testing.T, region, zone, rack, host string) {
		l := topology.Location{Region: region, Zone: zone, Rack: rack, Host: host}
		back, err := topology.ParseLocation(l.String())
		if l.Validate() == nil && (err != nil || back != l) {
			t.Fatalf("%+v is written %q, read as %+v, %v", l, l, back, err)
		}
	})
}
