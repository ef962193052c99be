package selector_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    selector.Options
		want string
	}{
		{"strategy", selector.Options{Strategy: "best"}, `selector: strategy "best"`},
		{"levels", selector.Options{Levels: topology.Levels{"region", "zone"}}, "selector: topology: level \"zone\" comes after a wider one"},
		{"too many levels", selector.Options{Levels: manyLevels(33)}, "selector: 33 levels, want at most 32"},
		{"slack", selector.Options{Near: selector.Near{Slack: -1}}, "selector: near slack -1ns"},
		{"factor", selector.Options{Near: selector.Near{Factor: 0.5}}, "selector: near factor 0.5"},
		{"no factor", selector.Options{Near: selector.Near{Factor: math.NaN()}}, "selector: near factor NaN"},
		{"wait", selector.Options{FirstSnapshot: -1}, "selector: wait for the first snapshot -1ns"},
		{"attempts", selector.Options{Retry: selector.Retry{Attempts: -1}}, "selector: -1 attempts"},
		{"backoff", selector.Options{Retry: selector.Retry{Backoff: -1}}, "selector: backoff -1ns"},
		{"budget", selector.Options{Retry: selector.Retry{Budget: math.NaN()}}, "selector: the retry budget is not a number"},
		{"price", selector.Options{Spill: selector.Spill{Price: -1}}, "selector: spill price -1ns, want at least 0s"},
		{"within", selector.Options{Spill: selector.Spill{Within: "rack"}}, `selector: calls stay within "rack", want one of the levels ["zone" "region"]`},
		{"regions", selector.Options{Spill: selector.Spill{Regions: make([]string, 31)}}, "selector: 2 levels and 31 regions in order, want at most 32 together"},
		{"order of regions", selector.Options{Spill: selector.Spill{Regions: []string{"us", "eu.west"}}}, `selector: Spill.Regions: region "eu.west": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`},
		{"no region", selector.Options{Spill: selector.Spill{Regions: []string{""}}}, `selector: Spill.Regions: region "": want 1 to 63`},
		{"connection", selector.Options{}, "selector: kv: open: no NATS connection was given"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := selector.New(t.Context(), nil, tt.o)
			if err == nil {
				_ = s.Close()
				t.Fatal("no error")
			}
			if !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}

// An instance cannot announce such a place, so nothing would be near it.
var impossible = map[string]struct {
	at   topology.Location
	want string
}{
	"dot":     {topology.Location{Region: "eu.west"}, `region "eu.west": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`},
	"blank":   {topology.Location{Region: "eu", Zone: "eu west"}, `zone "eu west": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`},
	"blanks":  {topology.Location{Region: " eu"}, `region " eu": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`},
	"newline": {topology.Location{Region: "eu", Zone: "eu-a\r\n"}, `zone "eu-a\r\n": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`},
	"long":    {topology.Location{Region: strings.Repeat("a", 64)}, `region "` + strings.Repeat("a", 64) + `": want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'`},
	"slash":   {topology.Location{Rack: "a/b"}, `rack "a/b": want at most 255 bytes of printable text without '/'`},
	"control": {topology.Location{Host: "a\x1bb"}, `host "a\x1bb": want at most 255 bytes of printable text without '/'`},
}

func TestALocationWhereNoInstanceCanBeIsAnError(t *testing.T) {
	for name, tt := range impossible {
		t.Run(name, func(t *testing.T) {
			if _, err := events.Encode(events.Instance{ID: "a", Service: "user", Location: tt.at, Endpoints: map[string]string{events.TCP: "a:1"}}); err == nil {
				t.Fatal("an instance can be there")
			}
			want := func(what string, err error) {
				t.Helper()
				if _, ok := errors.AsType[*topology.FieldError](err); !ok || err.Error() != "selector: "+what+": "+tt.want {
					t.Errorf("%s: error %q, want %q", what, err, tt.want)
				}
			}
			_, err := selector.New(t.Context(), nil, selector.Options{Source: always(), Location: tt.at})
			want("Options.Location", err)
			s, err := selector.New(t.Context(), nil, selector.Options{Source: always(instance("a", home)), Location: home})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			r := selector.Request{Service: "user", From: &tt.at}
			_, err = s.PickFor(t.Context(), r)
			want("Request.From", err)
			_, err = s.Explain(t.Context(), r)
			want("Request.From", err)
			want("Request.From", s.DoFor(t.Context(), r, nil))
			if n := s.Views("user"); n > 0 {
				t.Errorf("%d vantages of such places are kept", n)
			}
		})
	}
}

func TestAnUnderscoreInTheRequestIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("here", home), instance("far", farAway))
		from := topology.Location{Region: "eu", Zone: "_"}
		if e := w.explain(selector.Request{From: &from}); e.From != "eu/_" || e.Instances[0].ID != "far" || e.Instances[0].Circle != "region" {
			t.Errorf("from %s: %+v", e.From, e.Instances[0])
		}
		if p := w.pick(selector.Request{From: &from}); p.ID != "far" || p.Circle() != "region" {
			t.Errorf("picked %s in %s, want far in region", p.ID, p.Circle())
		}
		if from.Zone != "_" {
			t.Error("the caller's location was changed")
		}
	})
}

func manyLevels(n int) topology.Levels {
	var levels topology.Levels
	for i := range n {
		levels = append(levels, topology.Level(fmt.Sprint("l", i)))
	}
	return levels
}

func TestTheLocationComesFromTheEnvironment(t *testing.T) {
	t.Setenv("PROXIMA_REGION", "us")
	t.Setenv("PROXIMA_ZONE", "us-b")
	synctest.Test(t, func(t *testing.T) {
		s, err := selector.New(t.Context(), nil, selector.Options{Source: always(instance("here", home), instance("door", nextDoor))})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		if got := s.Location(); got != nextDoor {
			t.Errorf("location %v, want %v", got, nextDoor)
		}
		p, err := s.Pick(t.Context(), "user")
		if err != nil || p.ID != "door" {
			t.Errorf("picked %v, %v, want door", p.Instance, err)
		}
	})
}

func TestAnUnderscoreInTheLocationIsUnknown(t *testing.T) {
	s, err := selector.New(t.Context(), nil, selector.Options{Source: always(), Location: topology.Location{Region: "us", Zone: "_"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if got, want := s.Location(), (topology.Location{Region: "us"}); got != want {
		t.Errorf("location %v, want %v", got, want)
	}
}

func TestAZoneWithoutARegionIsWarnedOf(t *testing.T) {
	t.Setenv("PROXIMA_REGION", "")
	for at, warns := range map[topology.Location]int{home: 0, {Region: "us"}: 0, {Zone: "us-a"}: 1} {
		var log strings.Builder
		s, err := selector.New(t.Context(), nil, selector.Options{Source: always(), Location: at, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		if n := strings.Count(log.String(), "the region is unknown"); n != warns {
			t.Errorf("%v: %d warnings, want %d: %s", at, n, warns, log.String())
		}
	}
}

func TestALocationThatCannotBeReadIsLoggedAndUnknown(t *testing.T) {
	bad := "not a region, " + rand.Text() // the process logs each once, however often this test runs
	t.Setenv("PROXIMA_REGION", bad)
	t.Setenv("PROXIMA_ZONE", "")
	var log testkit.Output
	s, err := selector.New(t.Context(), nil, selector.Options{Source: always(), Logger: log.Logger(slog.LevelInfo)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if s.Location().Region != "" || !strings.Contains(log.String(), bad) {
		t.Errorf("location %v, log %s", s.Location(), log.String())
	}
}
