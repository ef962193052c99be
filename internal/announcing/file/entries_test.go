package file

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var here = Options{
	Where: topology.Detection{
		Location: topology.Location{Region: "r", Zone: "a", Rack: "r1", Host: "h1"},
		Won:      map[topology.Level]string{topology.Region: "flags", topology.Zone: "env PROXIMA", topology.Rack: "flags", topology.Host: "flags"},
	},
	Drain: 5 * time.Second,
}

func TestEntriesMayHaveAllFieldsOfARecord(t *testing.T) {
	in := events.Instance{
		ID: "user-1", Service: "user", Incarnation: "x", Endpoints: map[string]string{"http": "h:80"},
		Location: topology.Location{Region: "r", Zone: "z", Rack: "k", Host: "h"}, Status: events.Draining, Version: "1",
		Weight: 7, Metadata: map[string]string{"a": "b"}, Coordinate: &events.Coordinate{Height: 1}, Started: time.Now(), TTL: time.Minute,
	}
	record, err := events.Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(record, &fields); err != nil {
		t.Fatal(err)
	}
	fields["check"], fields["drain"] = "http://h:80/", "1s"
	if known := entryFields(); len(fields) != len(known) {
		t.Errorf("an entry may have %v, a record with check and drain has %v", known, fields)
	}
	data, err := json.Marshal([]any{fields})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := parseEntries(data, here)
	if err != nil {
		t.Fatal(err)
	}
	e := entries[0]
	if again, err := events.Encode(e.Instance); err != nil || !slices.Equal(again, record) {
		t.Errorf("record %s, want %s, error %v", again, record, err)
	}
	if e.Instance.Weight != 7 || e.Instance.Location.Rack != "k" || e.Check != "http://h:80/" || e.Drain != time.Second || e.Ask == nil {
		t.Errorf("entry %+v", e)
	}
}

func TestMissingFieldsOfEntriesAreFilledIn(t *testing.T) {
	for _, tt := range []struct{ name, location, want, zoneBy string }{
		{"no location", ``, "r/a/r1/h1", "env PROXIMA"},
		{"the same zone", `{"zone":"a"}`, "r/a/r1/h1", "file"},
		{"another rack", `{"rack":"r2"}`, "r/a/r2/h1", "env PROXIMA"},
		{"another zone", `{"zone":"b"}`, "r/b", "file"},
		{"another region", `{"region":"s"}`, "s/_", ""},
		{"all of it", `{"region":"s","zone":"x","rack":"y","host":"z"}`, "s/x/y/z", "file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"}`
			if tt.location != "" {
				text += `,"location":` + tt.location
			}
			entries, err := parseEntries([]byte(text+"}]"), here)
			if err != nil {
				t.Fatal(err)
			}
			e := entries[0]
			if got := e.Instance.Location.String(); got != tt.want {
				t.Errorf("location %s, want %s", got, tt.want)
			}
			if got := e.Won[topology.Zone]; got != tt.zoneBy {
				t.Errorf("zone by %q, want %q", got, tt.zoneBy)
			}
			if e.Instance.TTL != events.DefaultTTL || e.Instance.Weight != events.DefaultWeight || e.Instance.Status != events.Up ||
				e.Drain != here.Drain || e.Ask != nil {
				t.Errorf("entry %+v", e)
			}
		})
	}
}

func TestAnErrorNamesEntryAndField(t *testing.T) {
	const good = `{"service":"user","id":"user-1","endpoints":{"http":"h:80"}}`
	for _, tt := range []struct{ name, file, want string }{
		{"empty", ``, "line 1: unexpected end"},
		{"no array", good, "want a JSON array of instances"},
		{"syntax", "[\n" + good + ",\n{\"service\" \"user\"}]", "line 3: invalid character '\"'"},
		{"two arrays", "[]\n[]", "line 2: invalid character '['"},
		{"no object", `[` + good + `,7]`, "entry 2: want an instance as a JSON object"},
		{"null", `[null]`, "entry 1: want an instance as a JSON object"},
		{"no service", `[{"id":"user-1","endpoints":{"http":"h:80"}}]`, `entry 1: service "": want a DNS label`},
		{"no id", `[` + good + `,{"service":"user","endpoints":{"http":"h:80"}}]`, `entry 2: id "": want 1 to 63`},
		{"no endpoints", `[{"service":"user","id":"user-1"}]`, `entry 1: endpoints "": want at least one`},
		{"endpoint", `[{"service":"user","id":"user-1","endpoints":{"http":"h"}}]`, `entry 1: endpoints.http "h": want host:port`},
		{"ttl", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"ttl":"1500ms"}]`, `entry 1: ttl "1.5s": want whole seconds`},
		{"weight of another type", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"weight":"much"}]`, `entry 1: weight `},
		{"null", `null`, `null: want a JSON array of instances, [] for none`},
		{"typing error", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"chek":"none"}]`, `entry 1: unknown field "chek", did you mean "check"?`},
		{"typing error in the location", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"location":{"zoen":"a"}}]`, `entry 1: unknown field "location.zoen", did you mean "zone"?`},
		{"location of another type", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"location":"a"}]`, `entry 1: location `},
		{"check", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"check":"h:80"}]`, `entry 1: check "h:80": want http://`},
		{"check that is null", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"check":null}]`, `entry 1: check null: want a string`},
		{"checks that are null", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"check":["none",null]}]`, `entry 1: check ["none",null]: want a string`},
		{"a field that is there twice", `[{"service":"user","id":"user-1","id":"user-2","endpoints":{"http":"h:80"}}]`, `entry 1: field "id" is there twice`},
		{"check of another type", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"check":7}]`, `entry 1: check 7: want a string`},
		{"drain", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"drain":"-1s"}]`, `entry 1: drain "-1s": want a duration`},
		{"drain of another type", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"drain":5}]`, `entry 1: drain 5: want a string`},
		{"the same instance twice", `[` + good + `,{"service":"other","id":"user-1","endpoints":{"http":"h:80"}},` + good + `]`, `entry 3: id "user-1": entry 1 of service user has it already`},
		{"too large", `[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"metadata":{"a":"` + strings.Repeat("x", events.MaxSize) + `"}}]`, "entry 1: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			entries, err := parseEntries([]byte(tt.file), here)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || entries != nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 500 {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func FuzzParseEntries(f *testing.F) {
	f.Add([]byte(`[{"service":"user","id":"user-1","endpoints":{"http":"h:80"},"location":{"zone":"b"},"check":"none","drain":"1s"}]`))
	f.Add([]byte(`[null]`))
	f.Add([]byte(`[{"service":"a","id":"b","endpoints":{"nats":"x"},"location":null,"drain":null,"ttl":null}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseEntries(data, here)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of two lines: %q", err)
			}
			return
		}
		seen := make(map[string]bool)
		for _, e := range entries {
			if err := e.Instance.Validate(); err != nil || e.Drain < 0 || seen[e.Name()] {
				t.Errorf("entry %+v, error %v", e, err)
			}
			seen[e.Name()] = true
		}
	})
}
