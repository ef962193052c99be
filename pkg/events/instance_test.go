package events_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// user is an instance that sets every field.
func user() events.Instance {
	return events.Instance{
		ID: "user-7f3a", Service: "user", Incarnation: "i-1",
		Endpoints: map[string]string{events.HTTP: "10.0.0.5:8080", events.GRPC: "10.0.0.5:9090"},
		Location:  topology.Location{Region: "us-east-1", Zone: "us-east-1a", Rack: "r12", Host: "node-3"},
		Status:    events.Draining, Version: "1.4.2", Weight: 50,
		Metadata:   map[string]string{"team": "a"},
		Coordinate: &events.Coordinate{Vec: [8]float64{0.001, -0.002}, Error: 0.2, Adjustment: -0.01, Height: 1e-05},
		Started:    time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC), TTL: 15 * time.Second,
	}
}

const userRecord = `{"id":"user-7f3a","service":"user","incarnation":"i-1",` +
	`"endpoints":{"grpc":"10.0.0.5:9090","http":"10.0.0.5:8080"},` +
	`"location":{"region":"us-east-1","zone":"us-east-1a","rack":"r12","host":"node-3"},"status":"draining",` +
	`"version":"1.4.2","weight":50,"metadata":{"team":"a"},` +
	`"coordinate":{"vec":[0.001,-0.002,0,0,0,0,0,0],"error":0.2,"adjustment":-0.01,"height":0.00001},` +
	`"started":"2026-11-21T08:00:00Z","ttl":"15s"}`

// least is the smallest valid record.
const least = `{"id":"1","service":"user","endpoints":{"http":"10.0.0.5:8080"}}`

func TestTheRecordIsToTheLetterOfTheContract(t *testing.T) {
	data, err := events.Encode(user())
	if err != nil || string(data) != userRecord {
		t.Errorf("encoded\n %s, %v\nwant\n %s", data, err, userRecord)
	}
	in, err := events.Decode([]byte(userRecord))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(user(), *in); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultsAreFilledIn(t *testing.T) {
	want := events.Instance{
		ID: "1", Service: "user", Endpoints: map[string]string{"http": "10.0.0.5:8080"},
		Status: events.Up, Weight: 100, TTL: 15 * time.Second,
	}
	for _, record := range []string{
		least,
		strings.Replace(least, "{", `{"status":"","version":"","metadata":{},"started":"","ttl":"","location":{},`, 1),
		strings.Replace(least, "{", `{"status":null,"weight":null,"metadata":null,"coordinate":null,"started":null,"ttl":null,"location":null,`, 1),
		strings.Replace(least, "{", `{"location":{"region":"_","zone":"_","rack":"_","host":"_"},`, 1),
		" \t\r\n" + least + " \t\r\n",
	} {
		in, err := events.Decode([]byte(record))
		if err != nil {
			t.Errorf("%s: %v", record, err)
			continue
		}
		if diff := cmp.Diff(&want, in, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", record, diff)
		}
	}

	data, err := events.Encode(events.Instance{
		ID: "1", Service: "user", Endpoints: want.Endpoints, Location: topology.Location{Region: "_", Host: "_"},
	})
	full := `{"id":"1","service":"user","endpoints":{"http":"10.0.0.5:8080"},"location":{},"status":"up","weight":100,"ttl":"15s"}`
	if err != nil || string(data) != full {
		t.Errorf("encoded %s, %v, want %s", data, err, full)
	}
}

func TestEncodeLeavesItsArgumentAlone(t *testing.T) {
	in := user()
	in.Weight, in.Location.Rack = 0, "_"
	before := in
	if _, err := events.Encode(in); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, in); diff != "" {
		t.Error(diff)
	}
}

func TestOfSeveralBadFieldsTheSameIsReportedEachTime(t *testing.T) {
	in := user()
	in.Incarnation, in.Version, in.Location.Rack, in.Location.Host = "\x00", "\x00", "\x00", "\x00"
	in.Endpoints = map[string]string{"http": "", "tcp": "", "grpc": "", "x": ""}
	in.Metadata = map[string]string{"\x01": "", "\x02": "", "b": "\xff", "a": "\xff"}
	for _, want := range []string{
		`events: location.rack "\x00"`, `events: location.host "\x00"`, `events: incarnation "\x00"`, `events: version "\x00"`,
		`events: endpoints.grpc ""`, `events: metadata "\x01"`, `events: metadata.a "\xff"`,
	} {
		for range 20 {
			if err := in.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Fatalf("got %v, want %s", err, want)
			}
		}
		switch {
		case in.Location.Rack != "":
			in.Location.Rack = ""
		case in.Location.Host != "":
			in.Location.Host = ""
		case in.Incarnation != "":
			in.Incarnation = ""
		case in.Version != "":
			in.Version = ""
		case in.Endpoints["http"] == "":
			in.Endpoints = user().Endpoints
		default:
			delete(in.Metadata, "\x01")
			delete(in.Metadata, "\x02")
		}
	}
}

func TestEncodeRefusesWhatDecodeWould(t *testing.T) {
	for _, tt := range []struct {
		change func(*events.Instance)
		want   string
	}{
		{func(in *events.Instance) { in.ID = "a.b" }, "events: id"},
		{func(in *events.Instance) { in.Endpoints = nil }, "events: endpoints"},
		{func(in *events.Instance) { in.Weight = -2 }, "events: weight"},
		{func(in *events.Instance) { in.TTL = time.Millisecond }, "events: ttl"},
		{func(in *events.Instance) { in.Started = time.Unix(1<<40, 0) }, "events: started"},
		{func(in *events.Instance) { in.Metadata["m"] = "\xff" }, "events: metadata.m"},
		{func(in *events.Instance) { in.Metadata["m"] = strings.Repeat("x", events.MaxSize) }, "events: instance user-7f3a takes"},
		{func(in *events.Instance) { in.Coordinate.Error = 11 }, "events: coordinate.error"},
	} {
		in := user()
		tt.change(&in)
		if data, err := events.Encode(in); data != nil || err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("got %.40s, %v, want the error %s", data, err, tt.want)
		}
	}
}

func TestStartedIsKeptInUTC(t *testing.T) {
	in, err := events.Decode([]byte(with(`"started":"2026-11-21T09:30:00.123456789+01:30"`)))
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 11, 21, 8, 0, 0, 123456789, time.UTC)
	if in.Started != want {
		t.Errorf("started %v, want %v", in.Started, want)
	}
	in.Started = want.In(time.FixedZone("", 3600))
	data, err := events.Encode(*in)
	if err != nil || !strings.Contains(string(data), `"started":"2026-11-21T08:00:00.123456789Z"`) {
		t.Errorf("encoded %s, %v", data, err)
	}
}

func TestInstancesAreOrdinaryJSON(t *testing.T) {
	type answer struct {
		Instances []events.Instance `json:"instances"`
		None      *events.Instance  `json:"none"`
	}
	data, err := json.Marshal(answer{Instances: []events.Instance{user(), {}}})
	want := `{"instances":[` + userRecord + `,{"id":"","service":"","location":{}}],"none":null}`
	if err != nil || string(data) != want {
		t.Errorf("got\n %s, %v, want\n %s", data, err, want)
	}
	var back answer
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(answer{Instances: []events.Instance{user(), {}}}, back); diff != "" {
		t.Error(diff)
	}
}

func TestUnmarshalReplacesOrLeavesAlone(t *testing.T) {
	in := user()
	for _, data := range []string{`null`, `{"id":5}`, `{"ttl":"soon"}`, `{"weight":-1}`} {
		err := json.Unmarshal([]byte(data), &in)
		if (err == nil) != (data == "null") {
			t.Errorf("%s: %v", data, err)
		}
		if diff := cmp.Diff(user(), in); diff != "" {
			t.Errorf("%s: %s", data, diff)
		}
	}
	if err := json.Unmarshal([]byte(`{"id":"2"}`), &in); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(events.Instance{ID: "2"}, in); diff != "" {
		t.Error(diff)
	}
}

func TestMarshalRefusesATimeThatHasNoText(t *testing.T) {
	in := user()
	in.Started = time.Unix(1<<40, 0)
	if data, err := in.MarshalJSON(); err == nil {
		t.Errorf("got %s", data)
	}
	in = user()
	in.Coordinate.Error = -1 / in.Coordinate.Vec[7]
	if data, err := in.MarshalJSON(); err == nil {
		t.Errorf("got %s", data)
	}
}

func TestFieldsOfOthersStandAfterThoseOfTheInstance(t *testing.T) {
	in := events.Instance{ID: "1", Service: "user"}
	type note struct {
		Note string `json:"note,omitempty"`
	}
	for more, want := range map[note]string{
		{"<b>"}: `{"id":"1","service":"user","location":{},"note":"<b>"}`,
		{}:      `{"id":"1","service":"user","location":{}}`,
	} {
		if got, err := in.MarshalWith(more); err != nil || string(got) != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	if got, err := in.MarshalWith(math.Inf(1)); err == nil {
		t.Errorf("got %s", got)
	}
}

func TestAddressesAreOrderedText(t *testing.T) {
	in := events.Instance{Endpoints: map[string]string{"http": "10.0.0.5:8080", "grpc": "10.0.0.5:9090"}}
	if got, want := in.Addresses(), "grpc=10.0.0.5:9090, http=10.0.0.5:8080"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAWeightOfZeroIsTheLastResort(t *testing.T) {
	in := events.Instance{ID: "1", Service: "user", Endpoints: map[string]string{events.HTTP: "10.0.0.5:8080"}, Weight: events.LastResort}
	data, err := events.Encode(in)
	if err != nil || !strings.Contains(string(data), `"weight":0`) {
		t.Fatalf("%s, %v", data, err)
	}
	for _, text := range []string{string(data), strings.Replace(string(data), `"weight":0`, `"weight":-0`, 1)} {
		var plain events.Instance
		if err := json.Unmarshal([]byte(text), &plain); err != nil || plain.Weight != events.LastResort {
			t.Errorf("%s: weight %d, %v", text, plain.Weight, err)
		}
		if got, err := events.Decode([]byte(text)); err != nil || got.Weight != events.LastResort {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
