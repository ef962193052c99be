package events_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestBeatsAreToTheLetterOfTheContract(t *testing.T) {
	for _, tt := range []struct {
		beat events.Beat
		want string
	}{
		{events.Beat{}, `{"cpu":0,"mem":0,"in_flight":0,"queue":0}`},
		{events.Beat{CPU: 0.25, Memory: 1, InFlight: 12, Queue: 1_000_000, Incarnation: "a<b"}, `{"cpu":0.25,"mem":1,"in_flight":12,"queue":1000000,"incarnation":"a<b"}`},
	} {
		data, err := events.EncodeBeat(tt.beat)
		if err != nil || string(data) != tt.want {
			t.Errorf("%+v is %s, %v, want %s", tt.beat, data, err, tt.want)
		}
		if back, err := events.DecodeBeat(data); err != nil || back != tt.beat {
			t.Errorf("%s is %+v, %v, want %+v", data, back, err, tt.beat)
		}
	}
}

func TestAShareALittleAboveOneIsOneToTheEncoderOnly(t *testing.T) {
	data, err := events.EncodeBeat(events.Beat{CPU: 1.003, Memory: 1.01})
	if want := `{"cpu":1,"mem":1,"in_flight":0,"queue":0}`; err != nil || string(data) != want {
		t.Errorf("%s, %v, want %s", data, err, want)
	}
	if b, err := events.DecodeBeat([]byte(`{"cpu":1.003}`)); err == nil {
		t.Errorf("read as %+v", b)
	}
}

func TestInvalidBeatsAreNotEncoded(t *testing.T) {
	for _, tt := range []struct {
		beat        events.Beat
		field, rule string
	}{
		{events.Beat{CPU: 1.02}, "cpu", "want a number, 0 to 1"},
		{events.Beat{CPU: -0.001}, "cpu", "want a number, 0 to 1"},
		{events.Beat{CPU: math.NaN()}, "cpu", "want a number, 0 to 1"},
		{events.Beat{Memory: math.Inf(1)}, "mem", "want a number, 0 to 1"},
		{events.Beat{Memory: math.Inf(-1)}, "mem", "want a number, 0 to 1"},
		{events.Beat{InFlight: -1}, "in_flight", "want a whole number, 0 to 1000000"},
		{events.Beat{Queue: 1_000_001}, "queue", "want a whole number, 0 to 1000000"},
		{events.Beat{Incarnation: strings.Repeat("x", 256)}, "incarnation", "want at most 255 bytes"},
		{events.Beat{Incarnation: "a\nb"}, "incarnation", "want at most 255 bytes"},
	} {
		data, err := events.EncodeBeat(tt.beat)
		fe, ok := errors.AsType[*events.FieldError](err)
		if data != nil || !ok || fe.Field != tt.field || !strings.HasPrefix(fe.Rule, tt.rule) {
			t.Errorf("%+v: %s, %v, want field %s, rule %s", tt.beat, data, err, tt.field, tt.rule)
		}
	}
}

func TestTheLongestBeatFits(t *testing.T) {
	worst := events.Beat{CPU: math.Nextafter(0.1, 1), Memory: 5e-324, InFlight: 999_999, Queue: 999_999}
	for _, text := range []string{`"`, `\`, "<", "é"} {
		b := worst
		b.Incarnation = strings.Repeat(text, 255/len(text))
		data, err := events.EncodeBeat(b)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := events.DecodeBeat(data); err != nil || back != b {
			t.Errorf("%d bytes: %+v, %v", len(data), back, err)
		}
	}
}

func TestNumbersThatABeatLeavesOutAreZero(t *testing.T) {
	for data, want := range map[string]events.Beat{
		`{"queue":3}`: {Queue: 3},
		" {\"cpu\":0.5,\"mem\":null,\"later\":{\"x\":[1]},\"incarnation\":null}\n": {CPU: 0.5},
		`{"in_flight":3.0,"queue":1e2}`:                                            {InFlight: 3, Queue: 100}, // of writers that have no whole numbers
		`{"cpu":0}`:                                                                {},
	} {
		if got, err := events.DecodeBeat([]byte(data)); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", data, got, err, want)
		}
	}
}

func TestInvalidBeatsAreRefused(t *testing.T) {
	share, count, object := "want a number, 0 to 1", "want a whole number, 0 to 1000000", "want a JSON object"
	one := "want at least one of cpu, mem, in_flight and queue"
	for _, tt := range []struct{ data, field, rule string }{
		{"", "beat", object},
		{" ", "beat", object},
		{"null", "beat", object},
		{"0.5", "beat", object},
		{`[{"cpu":0.5}]`, "beat", object},
		{"{}", "beat", one},
		{`{"status":"UP"}`, "beat", one}, // of a health check
		{`{"cpu":null}`, "beat", one},
		{`{"cpu":"0.5"}`, "cpu", "want a JSON number"},
		{`{"cpu":1.0001}`, "cpu", share},
		{`{"cpu":-0.1}`, "cpu", share},
		{`{"mem":75}`, "mem", share},
		{`{"mem":1e400}`, "mem", "want a JSON number"},
		{`{"in_flight":-1}`, "in_flight", count},
		{`{"in_flight":1.5}`, "in_flight", count},
		{`{"queue":1000001}`, "queue", count},
		{`{"queue":[]}`, "queue", "want a JSON number"},
		{`{"cpu":0,"incarnation":5}`, "incarnation", "want a JSON string"},
		{`{"cpu":0,"incarnation":"\u0000"}`, "incarnation", "want at most 255 bytes"},
	} {
		b, err := events.DecodeBeat([]byte(tt.data))
		fe, ok := errors.AsType[*events.FieldError](err)
		if b != (events.Beat{}) || !ok || fe.Field != tt.field || !strings.HasPrefix(fe.Rule, tt.rule) {
			t.Errorf("%s: %+v, %v, want field %s, rule %s", tt.data, b, err, tt.field, tt.rule)
		}
	}
	for data, want := range map[string]string{
		`{"cpu":0.5`:                                     "unexpected end of JSON input",
		`{"cpu":0.5}{"cpu":0.5}`:                         "invalid character '{' after top-level value",
		`{"cpu":NaN}`:                                    "invalid character 'N'",
		"{\"cpu\":0,\"incarnation\":\"\xff\"}":           "not UTF-8",
		`{"cpu":0}` + strings.Repeat(" ", 1024):          "a beat of 1033 bytes, want at most 1024",
		`{"x":` + strings.Repeat("[", 500):               "unexpected end of JSON input",
		`{"cpu":0,"later":"` + strings.Repeat("x", 2000): "want at most 1024",
	} {
		b, err := events.DecodeBeat([]byte(data))
		if b != (events.Beat{}) || err == nil || !strings.HasPrefix(err.Error(), "events: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50s: %+v, %v, want an error with %q", data, b, err, want)
		}
	}
}

func TestBeatKeysAreNoRecordKeys(t *testing.T) {
	k := events.Key{Service: "user", Zone: "a", ID: "1"}
	if got, want := k.Beat(), "beat.user._.a.1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if back, err := events.ParseBeatKey(k.Beat()); err != nil || back != k {
		t.Errorf("%+v, %v", back, err)
	}
	for _, key := range []string{"", "beat", "beat.", k.Inst(), k.Lease(), "xbeat.user._.a.1", "beat.user._.a", "beat.user._.a.1.2", "beat.user..a.1"} {
		back, err := events.ParseBeatKey(key)
		fe, ok := errors.AsType[*events.FieldError](err)
		if back != (events.Key{}) || !ok || fe.Rule != "want beat.<service>.<region>.<zone>.<id>" {
			t.Errorf("%q: %+v, %v", key, back, err)
		}
	}
	if _, err := events.ParseKey(k.Beat()); err == nil {
		t.Error("a beat is taken for a record")
	}
}

func FuzzDecodeBeat(f *testing.F) {
	for _, s := range []string{
		"", "null", "{}", `{"cpu":0.5,"mem":0.25,"in_flight":3,"queue":1,"incarnation":"a"}`, `{"CPU":1e-400,"cpu":-0}`, `{"cpu":1.0000000000000001}`,
		`{"in_flight":1e6,"queue":0.5e1}`, `{"queue":1e-7}`, `{"mem":null,"later":[{}]}`, `{"cpu":0,"incarnation":"\ud800<\\"}`, "{\"cpu\":\x00}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		b, err := events.DecodeBeat(data)
		if !bytes.Equal(data, before) {
			t.Fatal("DecodeBeat changed its argument")
		}
		if err != nil {
			if b != (events.Beat{}) || len(err.Error()) > 1000 {
				t.Fatalf("%+v, an error of %d bytes", b, len(err.Error()))
			}
			return
		}
		if !(b.CPU >= 0 && b.CPU <= 1 && b.Memory >= 0 && b.Memory <= 1) || b.InFlight < 0 || b.InFlight > 1e6 || b.Queue < 0 || b.Queue > 1e6 {
			t.Fatalf("%s is %+v", data, b)
		}
		encoded, err := events.EncodeBeat(b)
		if err != nil || len(encoded) > events.MaxBeatSize {
			t.Fatalf("%s does not encode: %d bytes, %v", data, len(encoded), err)
		}
		if back, err := events.DecodeBeat(encoded); err != nil || back != b {
			t.Fatalf("%s comes back as %+v, %v", encoded, back, err)
		}
	})
}

func ExampleEncodeBeat() {
	beat, err := events.EncodeBeat(events.Beat{CPU: 0.42, Memory: 0.5, InFlight: 12})
	fmt.Printf("%s %v\n", beat, err)
	// Output: {"cpu":0.42,"mem":0.5,"in_flight":12,"queue":0} <nil>
}
