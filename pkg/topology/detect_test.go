package topology_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestTheFirstDetectorThatFindsAFieldWins(t *testing.T) {
	d := topology.Detect(t.Context(),
		topology.Fixed("nothing", topology.Location{}),
		topology.Fixed("zone", topology.Location{Zone: "a"}),
		topology.Fixed("region", topology.Location{Region: "r", Zone: "b"}),
		topology.Fixed("all", topology.Location{Region: "s", Zone: "c", Rack: "1", Host: "h"}),
	)
	want := topology.Detection{
		Location: topology.Location{Region: "r", Zone: "a", Rack: "1", Host: "h"},
		Won: map[topology.Level]string{
			topology.Region: "region", topology.Zone: "zone", topology.Rack: "all", topology.Host: "all",
		},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
}

func TestUnknownStaysUnknown(t *testing.T) {
	d := topology.Detect(t.Context(),
		topology.Fixed("unknown", topology.Location{Region: "_", Zone: " _ ", Rack: "  ", Host: "\t"}),
		topology.Fixed("zone", topology.Location{Zone: "a"}),
	)
	want := topology.Detection{
		Location: topology.Location{Zone: "a"},
		Won:      map[topology.Level]string{topology.Zone: "zone"},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if d := topology.Detect(t.Context()); d.Location != (topology.Location{}) || len(d.Won) != 0 || d.Errors != nil {
		t.Errorf("without detectors got %+v", d)
	}
}

func TestAFailingDetectorIsSkippedAndItsErrorKept(t *testing.T) {
	broken := errors.New("no route to host")
	d := topology.Detect(t.Context(),
		topology.Detector{Name: "cloud", Detect: func(context.Context) (topology.Location, error) {
			return topology.Location{Region: "half-read"}, broken
		}},
		topology.Fixed("flags", topology.Location{Region: "r"}),
	)
	if d.Location.Region != "r" || d.Won[topology.Region] != "flags" {
		t.Errorf("got %+v, want region r from flags", d)
	}
	if len(d.Errors) != 1 || !errors.Is(d.Errors[0], broken) || d.Errors[0].Error() != "topology: cloud: no route to host" {
		t.Errorf("errors are %v", d.Errors)
	}
}

func TestAnIllegalNameIsAnErrorOfItsDetectorAndCountsAsUnknown(t *testing.T) {
	d := topology.Detect(t.Context(),
		topology.Fixed("flags", topology.Location{Region: "us east", Zone: " a ", Rack: "x/y", Host: "a\x1bb"}),
		topology.Fixed("file", topology.Location{Region: "us-east", Rack: "xy"}),
	)
	var got []string
	for _, err := range d.Errors {
		got = append(got, err.Error())
	}
	want := []string{
		`topology: flags: region "us east": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`,
		`topology: flags: rack "x/y": want at most 255 bytes of printable text without '/'`,
		`topology: flags: host "a\x1bb": want at most 255 bytes of printable text without '/'`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if want := (topology.Location{Region: "us-east", Zone: "a", Rack: "xy"}); d.Location != want {
		t.Errorf("got %+v, want %+v", d.Location, want)
	}
	if fe, ok := errors.AsType[*topology.FieldError](d.Errors[0]); !ok || fe.Field != topology.Region {
		t.Errorf("error %v does not name its field", d.Errors[0])
	}
	if d.Won[topology.Region] != "file" || d.Won[topology.Zone] != "flags" {
		t.Errorf("won is %v", d.Won)
	}
}

func TestAnIllegalNameThatLosesAnywayIsNoError(t *testing.T) {
	d := topology.Detect(t.Context(),
		topology.Fixed("flags", topology.Location{Region: "r"}),
		topology.Fixed("file", topology.Location{Region: "r.r"}),
	)
	if d.Location.Region != "r" || d.Errors != nil {
		t.Errorf("got %+v", d)
	}
}

func TestDetectStopsWhenNothingIsLeftToKnow(t *testing.T) {
	asked := false
	topology.Detect(t.Context(),
		topology.Fixed("flags", topology.Location{Region: "r", Zone: "z", Rack: "1", Host: "h"}),
		topology.Detector{Name: "slow", Detect: func(context.Context) (topology.Location, error) {
			asked = true
			return topology.Location{}, nil
		}},
	)
	if asked {
		t.Error("asked another detector with every field known")
	}
}

func TestDetectEndsWithItsContext(t *testing.T) {
	stop := errors.New("stopping")
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := 0
	waits := topology.Detector{Name: "waits", Detect: func(ctx context.Context) (topology.Location, error) {
		asked++
		cancel(stop)
		<-ctx.Done()
		return topology.Location{}, ctx.Err()
	}}
	d := topology.Detect(ctx, topology.Fixed("flags", topology.Location{Zone: "a"}), waits, waits)
	if asked != 1 {
		t.Errorf("asked %d detectors, want none after the context ended", asked)
	}
	if d.Location.Zone != "a" {
		t.Errorf("got %+v, want what was known before the context ended", d.Location)
	}
	if len(d.Errors) != 2 || !errors.Is(d.Errors[0], context.Canceled) || !errors.Is(d.Errors[1], stop) {
		t.Errorf("errors are %v", d.Errors)
	}
}

func TestTheEnvironmentHasThreePrefixes(t *testing.T) {
	env := map[string]string{
		"PROXIMA_ZONE": "pz", "PROXIMA_HOST": "ph",
		"SERVICE_REGION": "sr", "SERVICE_ZONE": "sz", "SERVICE_HOST": "10.0.0.5",
		"CLIENT_REGION": "cr", "CLIENT_RACK": "ck", "CLIENT_HOST": "10.0.0.6",
	}
	getenv := func(name string) string { return env[name] }
	d := topology.Detect(t.Context(), topology.Environment(getenv)...)
	want := topology.Detection{
		Location: topology.Location{Region: "sr", Zone: "pz", Rack: "ck", Host: "ph"},
		Won: map[topology.Level]string{
			topology.Region: "env SERVICE", topology.Zone: "env PROXIMA", topology.Rack: "env CLIENT", topology.Host: "env PROXIMA",
		},
	}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	delete(env, "PROXIMA_HOST")
	if d := topology.Detect(t.Context(), topology.Environment(getenv)...); d.Location.Host != "" {
		t.Errorf("the address in SERVICE_HOST became host %q", d.Location.Host)
	}
}

func TestTheEnvironmentIsReadAtEachDetection(t *testing.T) {
	zone := "a"
	detectors := topology.Environment(func(name string) string {
		if name == "PROXIMA_ZONE" {
			return zone
		}
		return ""
	})
	for _, zone = range []string{"a", "b"} {
		if d := topology.Detect(t.Context(), detectors...); d.Location.Zone != zone {
			t.Errorf("got zone %q, want %q", d.Location.Zone, zone)
		}
	}
}

func FuzzDetect(f *testing.F) {
	f.Add("r", "z", "k", "h", "r2", "z2")
	f.Add("_", " z ", "a/b", "\x00", "r.r", strings.Repeat("z", 64))
	f.Fuzz(func(t *testing.T, region, zone, rack, host, region2, zone2 string) {
		d := topology.Detect(t.Context(),
			topology.Fixed("one", topology.Location{Region: region, Zone: zone, Rack: rack, Host: host}),
			topology.Fixed("two", topology.Location{Region: region2, Zone: zone2}),
		)
		if err := d.Location.Validate(); err != nil {
			t.Fatalf("detected %+v: %v", d.Location, err)
		}
		for level, value := range map[topology.Level]string{
			topology.Region: d.Location.Region, topology.Zone: d.Location.Zone,
			topology.Rack: d.Location.Rack, topology.Host: d.Location.Host,
		} {
			if (d.Won[level] != "") != (value != "") {
				t.Fatalf("%s is %q and %q won it", level, value, d.Won[level])
			}
		}
	})
}
