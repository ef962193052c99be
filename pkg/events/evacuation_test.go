package events_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var ordered = time.Date(2026, 11, 21, 8, 0, 0, 123e6, time.UTC)

func TestEvacuationIsToTheLetterOfTheContract(t *testing.T) {
	e := events.Evacuation{Region: "eu-west-1", Zone: "eu-west-1a", Evacuated: true, At: ordered}
	data, err := events.EncodeEvacuation(e)
	if want := `{"evacuated":true,"at":"2026-11-21T08:00:00.123Z"}`; err != nil || string(data) != want {
		t.Errorf("%s, %v, want %s", data, err, want)
	}
	if e.Key() != "evacuate.eu-west-1.eu-west-1a" || e.Place() != "eu-west-1/eu-west-1a" {
		t.Errorf("%s of %s", e.Key(), e.Place())
	}
	back, err := events.DecodeEvacuation(e.Key(), data)
	if err != nil || back != e {
		t.Errorf("%+v, %v", back, err)
	}
	whole := events.Evacuation{Region: "eu-west-1"}
	if whole.Key() != "evacuate.eu-west-1" || whole.Place() != "eu-west-1" {
		t.Errorf("%s of %s", whole.Key(), whole.Place())
	}
	if region, zone, err := events.ParsePlace("eu-west-1/eu-west-1a"); region != e.Region || zone != e.Zone || err != nil {
		t.Errorf("%s %s %v", region, zone, err)
	}
}

func TestEvacuationCoversKnownPlacesOnly(t *testing.T) {
	region, zone := events.Evacuation{Region: "eu"}, events.Evacuation{Region: "eu", Zone: "a"}
	for _, tt := range []struct {
		l            topology.Location
		region, zone bool
	}{
		{topology.Location{Region: "eu", Zone: "a"}, true, true},
		{topology.Location{Region: "eu", Zone: "b"}, true, false},
		{topology.Location{Region: "eu"}, true, false},
		{topology.Location{Region: "us", Zone: "a"}, false, false},
		{topology.Location{Zone: "a"}, false, false},
		{topology.Location{}, false, false},
	} {
		if got := region.Covers(tt.l); got != tt.region {
			t.Errorf("the region covers %v: %t", tt.l, got)
		}
		if got := zone.Covers(tt.l); got != tt.zone {
			t.Errorf("the zone covers %v: %t", tt.l, got)
		}
	}
}

func TestTheLaterOfTwoOrdersHolds(t *testing.T) {
	first := events.Evacuation{Region: "eu", Evacuated: true, At: ordered}
	undo := events.Evacuation{Region: "eu", At: ordered.Add(time.Millisecond)}
	if !undo.Overrides(first) || first.Overrides(undo) {
		t.Error("the earlier order holds")
	}
	undo.At = first.At
	if undo.Overrides(first) || !first.Overrides(undo) {
		t.Error("of two of the same moment that which undoes holds")
	}
	if first.Overrides(first) {
		t.Error("an order overrides itself")
	}
}

func TestInvalidEvacuationsAreRefused(t *testing.T) {
	const good = `{"evacuated":true,"at":"2026-11-21T08:00:00.123Z"}`
	for name, tt := range map[string]struct{ key, data, error string }{
		"another family":         {"inst.eu", good, "want evacuate."},
		"no place":               {"evacuate", good, "want evacuate."},
		"an empty region":        {"evacuate.", good, "region"},
		"an empty zone":          {"evacuate.eu.", good, "want evacuate."},
		"a place in a zone":      {"evacuate.eu.a.b", good, "zone"},
		"a region that is none":  {"evacuate.e*", good, "region"},
		"an unknown region":      {"evacuate._", good, "known"},
		"an unknown zone":        {"evacuate.eu._", good, "known"},
		"a name that is long":    {"evacuate." + strings.Repeat("x", 64), good, "region"},
		"nothing":                {"evacuate.eu", "", "object"},
		"no object":              {"evacuate.eu", "true", "object"},
		"half an object":         {"evacuate.eu", `{"evacuated":`, "decode"},
		"no verdict":             {"evacuate.eu", `{"at":"2026-11-21T08:00:00Z"}`, "evacuated"},
		"a verdict that is text": {"evacuate.eu", `{"evacuated":"yes","at":"2026-11-21T08:00:00Z"}`, "true or false"},
		"no time":                {"evacuate.eu", `{"evacuated":true}`, "at"},
		"a time that is none":    {"evacuate.eu", `{"evacuated":true,"at":"now"}`, "at"},
		"a time that is no text": {"evacuate.eu", `{"evacuated":true,"at":5}`, "whole milliseconds"},
		"a time too fine":        {"evacuate.eu", `{"evacuated":true,"at":"2026-11-21T08:00:00.1234Z"}`, "whole milliseconds"},
		"a time before all":      {"evacuate.eu", `{"evacuated":true,"at":"1969-11-21T08:00:00Z"}`, "whole milliseconds"},
		"not UTF-8":              {"evacuate.eu", `{"evacuated":true,"at":"2026-11-21T08:00:00Z","x":"` + "\xff" + `"}`, "UTF-8"},
		"too much":               {"evacuate.eu", good + strings.Repeat(" ", events.MaxEvacuationSize), "at most"},
	} {
		if e, err := events.DecodeEvacuation(tt.key, []byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.error) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	for _, place := range []string{"", "/", "eu/", "/a", "eu/a/b", "_", "eu/_", "e u"} {
		if _, _, err := events.ParsePlace(place); err == nil {
			t.Errorf("%q is a place", place)
		} else if _, ok := errors.AsType[*events.FieldError](err); !ok {
			t.Errorf("%q: %v is no FieldError", place, err)
		}
	}
	if e, err := events.DecodeEvacuation("evacuate.eu", []byte(`{"evacuated":false,"at":"2026-11-21T09:00:00+01:00","by":"ann"}`)); err != nil || e.Evacuated || !e.At.Equal(ordered.Truncate(time.Second)) {
		t.Errorf("%+v, %v", e, err)
	}
}

func FuzzDecodeEvacuation(f *testing.F) {
	f.Add("evacuate.eu", []byte(`{"evacuated":true,"at":"2026-11-21T08:00:00.123Z"}`))
	f.Add("evacuate.eu.a", []byte(`{"evacuated":false,"at":"9999-12-31T23:59:59.999Z","more":[1]}`))
	f.Add("evacuate.eu.a.b", []byte(`{"evacuated":null,"at":"0000-01-01T00:00:00Z"}`))
	f.Add("evacuate._", []byte(`{"evacuated":1,"at":{}}`))
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		e, err := events.DecodeEvacuation(key, data)
		if err != nil {
			return
		}
		if e.Key() != key || strings.ContainsAny(e.Region+e.Zone, ".*> ") {
			t.Fatalf("%q is read as %q", key, e.Key())
		}
		again, err := events.EncodeEvacuation(e)
		if err != nil {
			t.Fatalf("%+v is not written: %v", e, err)
		}
		if back, err := events.DecodeEvacuation(key, again); err != nil || back != e {
			t.Fatalf("%+v comes back as %+v, %v", e, back, err)
		}
		if region, zone, err := events.ParsePlace(e.Place()); err != nil || region != e.Region || zone != e.Zone {
			t.Fatalf("%q is read as %q, %q, %v", e.Place(), region, zone, err)
		}
	})
}
