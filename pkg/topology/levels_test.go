package topology_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestCircleIsTheNearestSharedLevel(t *testing.T) {
	all := topology.Levels{topology.Host, topology.Rack, topology.Zone, topology.Region}
	room := topology.Levels{"room", topology.Zone, topology.Region}
	for _, tt := range []struct {
		name   string
		levels topology.Levels
		a, b   string
		la, lb map[string]string
		want   string
	}{
		{"same zone", nil, "r/a", "r/a", nil, nil, "zone"},
		{"same region, other zone", nil, "r/a", "r/b", nil, nil, "region"},
		{"other region", nil, "r/a", "s/b", nil, nil, "elsewhere"},
		{"the same zone name in two regions", nil, "r/a", "s/a", nil, nil, "elsewhere"},
		{"nothing known on both sides", nil, "", "", nil, nil, "elsewhere"},
		{"nothing known on one side", nil, "r/a", "", nil, nil, "elsewhere"},
		{"zone unknown on one side", nil, "r/a", "r", nil, nil, "region"},
		{"zone unknown on both sides", nil, "r", "r", nil, nil, "region"},
		{"region unknown on one side, same zone", nil, "r/a", "_/a", nil, nil, "zone"},
		{"region unknown on one side, other zone", nil, "r/a", "_/b", nil, nil, "elsewhere"},
		{"region unknown on one side, zone unknown on both", nil, "r", "", nil, nil, "elsewhere"},
		{"region unknown on one side, and no other level", topology.Levels{topology.Region}, "r/a", "_/a", nil, nil, "elsewhere"},
		{"region unknown on both sides, same zone", nil, "_/a", "_/a", nil, nil, "zone"},
		{"region unknown on both sides, other zone", nil, "_/a", "_/b", nil, nil, "elsewhere"},
		{"levels that are not judged by do not matter", nil, "r/a/1/x", "r/a/2/y", nil, nil, "zone"},

		{"same host", all, "r/a/1/x", "r/a/1/x", nil, nil, "host"},
		{"same rack, other host", all, "r/a/1/x", "r/a/1/y", nil, nil, "rack"},
		{"same host name in other racks", all, "r/a/1/x", "r/a/2/x", nil, nil, "zone"},
		{"same host, rack unknown to both", all, "r/a/_/x", "r/a/_/x", nil, nil, "host"},
		{"same host, rack unknown to one", all, "r/a/_/x", "r/a/1/x", nil, nil, "zone"},
		{"same host, region unknown to one", all, "r/a/1/x", "_/a/1/x", nil, nil, "host"},
		{"same host, zone unknown to one", all, "r/a/1/x", "r/_/1/x", nil, nil, "region"},
		{"same host and nothing else known", all, "_/_/_/x", "_/_/_/x", nil, nil, "host"},

		{"metadata level shared", room, "r/a", "r/a", map[string]string{"room": "7"}, map[string]string{"room": "7"}, "room"},
		{"metadata level differs", room, "r/a", "r/a", map[string]string{"room": "7"}, map[string]string{"room": "8"}, "zone"},
		{"metadata level unknown to one", room, "r/a", "r/a", map[string]string{"room": "7"}, nil, "zone"},
		{"metadata level unknown to both", room, "r/a", "r/a", nil, nil, "zone"},
		{"metadata level of a zone, region unknown to one", room, "r/a", "_/a", map[string]string{"room": "7"}, map[string]string{"room": "7"}, "room"},
		{"metadata level in another zone", room, "r/a", "r/b", map[string]string{"room": "7"}, map[string]string{"room": "7"}, "region"},
		{"a label does not replace a field", nil, "r", "r", map[string]string{"zone": "a"}, map[string]string{"zone": "a"}, "region"},

		{"no levels at all", topology.Levels{}, "r/a", "r/a", nil, nil, "elsewhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := topology.Place{Location: location(t, tt.a), Labels: tt.la}
			b := topology.Place{Location: location(t, tt.b), Labels: tt.lb}
			if got := tt.levels.Name(tt.levels.Circle(a, b)); got != tt.want {
				t.Errorf("circle of %s and %s is %s, want %s", tt.a, tt.b, got, tt.want)
			}
			if got := tt.levels.Name(tt.levels.Circle(b, a)); got != tt.want {
				t.Errorf("circle of %s and %s is %s, want %s as the other way round", tt.b, tt.a, got, tt.want)
			}
		})
	}
}

func TestCircleIndexesAreFromNearestToElsewhere(t *testing.T) {
	levels := topology.Levels{topology.Host, topology.Zone}
	a := topology.Place{Location: location(t, "r/a/_/x")}
	for want, s := range []string{"r/a/_/x", "r/a/_/y", "r/b/_/x"} {
		if got := levels.Circle(a, topology.Place{Location: location(t, s)}); got != want {
			t.Errorf("circle of %s is %d, want %d", s, got, want)
		}
	}
	for i, want := range map[int]string{-1: "elsewhere", 0: "host", 1: "zone", 2: "elsewhere", 3: "elsewhere"} {
		if got := levels.Name(i); got != want {
			t.Errorf("name of circle %d is %s, want %s", i, got, want)
		}
	}
}

func TestNilLevelsAreTheDefault(t *testing.T) {
	var none topology.Levels
	a, b := topology.Place{Location: location(t, "r/a")}, topology.Place{Location: location(t, "s/b")}
	if got, want := none.Circle(a, b), len(topology.DefaultLevels()); got != want {
		t.Errorf("elsewhere is circle %d, want %d", got, want)
	}
	if got := none.Name(0); got != "zone" {
		t.Errorf("circle 0 is %s, want zone", got)
	}
}

func TestParseLevels(t *testing.T) {
	for _, tt := range []struct{ names, want string }{
		{"", "zone region"},
		{"zone", "zone"},
		{"host rack zone region", "host rack zone region"},
		{"host room zone carrier", "host room zone carrier"},
	} {
		got, err := topology.ParseLevels(strings.Fields(tt.names)...)
		var want topology.Levels
		for n := range strings.FieldsSeq(tt.want) {
			want = append(want, topology.Level(n))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("levels %q are %v, %v, want %v", tt.names, got, err, want)
		}
	}
	for _, tt := range []struct {
		names []string
		want  string
	}{
		{[]string{"zone", ""}, "want host, rack, zone, region or a metadata key"},
		{[]string{"ro\nom"}, "want host, rack, zone, region or a metadata key"},
		{[]string{"zone", "elsewhere"}, "leave it out"},
		{[]string{"zone", "region", "zone"}, "twice"},
		{[]string{"region", "zone"}, `"zone" comes after a wider one`},
		{[]string{"zone", "room", "host"}, `"host" comes after a wider one`},
	} {
		if got, err := topology.ParseLevels(tt.names...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("levels %q are %v, %v, want an error with %q", tt.names, got, err, tt.want)
		}
	}
}

func TestDefaultLevelsAreTheCallersOwn(t *testing.T) {
	topology.DefaultLevels()[0] = "changed"
	if got := topology.DefaultLevels()[0]; got != topology.Zone {
		t.Errorf("the nearest default level is %s after a caller changed its own", got)
	}
}

func location(t testing.TB, s string) topology.Location {
	t.Helper()
	l, err := topology.ParseLocation(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
