package events_test

import (
	"encoding/json"
	"errors"
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

// least is the record with the least that an instance must say.
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

func TestUnknownFieldsAreIgnored(t *testing.T) {
	for _, extra := range []string{
		`"later":"x"`, `"later":1.5e3`, `"later":true`, `"later":null`, `"later":[]`, `"later":{}`,
		`"later":[1,{"id":"no"},[null,false,"x"]]`, `"later":{"id":"no","a":{"b":[-0]}}`, `"":""`, `"x y":"\n"`,
		`"later":"é"`, `"lät\u0065r":{"\ud83d\ude00":"\""}`,
	} {
		for _, record := range []string{
			strings.Replace(least, "{", "{"+extra+",", 1),
			strings.TrimSuffix(least, "}") + "," + extra + "}",
			strings.Replace(least, "{", `{"location":{`+extra+`},`, 1),
			strings.Replace(least, "{", `{"coordinate":{"vec":[1,2,3,4,5,6,7,8],`+extra+`},`, 1),
		} {
			in, err := events.Decode([]byte(record))
			if err != nil || in.ID != "1" || in.Location != (topology.Location{}) {
				t.Errorf("%s: %+v, %v", record, in, err)
			}
		}
	}
}

func TestTextsMayHoldWhateverJSONCanSay(t *testing.T) {
	for _, tt := range []struct{ literal, want string }{
		{`"plain"`, "plain"},
		{`"a\"b\\c\/d\b\f\n\r\t"`, "a\"b\\c/d\b\f\n\r\t"},
		{`"\u0041\u00e9\ud83d\ude00\u0000"`, "Aé😀\x00"},
		{`"é😀` + "\u2028" + `<&>"`, "é😀\u2028<&>"},
		{`"` + "\x7f" + `"`, "\x7f"},
		{`""`, ""},
		{`null`, ""},
	} {
		in, err := events.Decode([]byte(strings.Replace(least, "{", `{"metadata":{"m":`+tt.literal+`},`, 1)))
		if err != nil || in.Metadata["m"] != tt.want {
			t.Errorf("%s is %q, %v, want %q", tt.literal, in.Metadata["m"], err, tt.want)
			continue
		}
		data, err := events.Encode(*in)
		if err != nil {
			t.Errorf("%s: %v", tt.literal, err)
		}
		if back, err := events.Decode(data); err != nil || back.Metadata["m"] != tt.want {
			t.Errorf("%s comes back as %q, %v", tt.literal, back.Metadata["m"], err)
		}
	}
}

func TestTheLastOfDuplicateNamesCounts(t *testing.T) {
	in, err := events.Decode([]byte(`{"id":"1","service":"user","id":"2","weight":1,"weight":2,` +
		`"endpoints":{"http":"10.0.0.5:1","http":"10.0.0.5:2"},"location":{"zone":"a","zone":"b"},"metadata":{"m":"1","m":"2"}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := events.Instance{
		ID: "2", Service: "user", Endpoints: map[string]string{"http": "10.0.0.5:2"},
		Location: topology.Location{Zone: "b"}, Status: events.Up, Weight: 2,
		Metadata: map[string]string{"m": "2"}, TTL: events.DefaultTTL,
	}
	if diff := cmp.Diff(want, *in); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	with := func(extra string) string { return strings.Replace(least, "{", "{"+extra+",", 1) }
	for _, tt := range []struct{ name, record, want string }{
		{"nothing", "", "unexpected end of JSON input"},
		{"only space", " \n", "unexpected end of JSON input"},
		{"null", "null", `events: instance "null": want a JSON object`},
		{"null in spaces", " null\n", `events: instance "null": want a JSON object`},
		{"an array", "[" + least + "]", "want a JSON object"},
		{"a string", `"user"`, "want a JSON object"},
		{"a number", "15", "want a JSON object"},
		{"cut off", least[:len(least)-1], "unexpected end of JSON input"},
		{"trailing data", least + "x", "invalid character 'x' after top-level value"},
		{"a second record", least + least, "invalid character '{' after top-level value"},
		{"a comma too many", strings.TrimSuffix(least, "}") + ",}", "invalid character '}'"},
		{"a comment", "/**/" + least, "invalid character '/'"},
		{"invalid UTF-8", with("\"metadata\":{\"m\":\"\xff\"}"), "events: decode an instance: not UTF-8"},
		{"a control character", with("\"version\":\"a\x01b\""), "invalid character '\\x01' in string literal"},
		{"a line break in a text", with("\"version\":\"a\nb\""), "invalid character '\\n' in string literal"},
		{"an unknown escape", with(`"version":"\x41"`), "invalid character 'x' in string escape code"},
		{"a short escape", with(`"version":"\u41"`), "invalid character"},
		{"NaN", with(`"later":NaN`), "invalid character 'N'"},
		{"nan", with(`"later":nan`), "invalid character 'a' in literal null"},
		{"inf", with(`"later":[-inf]`), "invalid character 'i' in numeric literal"},
		{"a leading zero", with(`"later":{"x":01}`), "invalid character '1'"},
		{"a leading plus", with(`"later":+1`), "invalid character '+'"},
		{"a lone minus", with(`"later":-`), "invalid character ',' in numeric literal"},
		{"two exponents", with(`"later":1e2e3`), "invalid character 'e'"},
		{"deeper than any parser goes", with(`"later":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)), "exceeded max depth"},
		{"too large", with(`"metadata":{"m":"` + strings.Repeat("x", events.MaxSize) + `"}`), "want at most 65536"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, err := events.Decode([]byte(tt.record))
			if in != nil || err == nil || !strings.HasPrefix(err.Error(), "events: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want an error with %q", in, err, tt.want)
			}
		})
	}
}

func TestTheErrorNamesTheFieldAndTheRule(t *testing.T) {
	long := strings.Repeat("x", 64)
	for _, tt := range []struct{ record, field, rule string }{
		{`{"service":"user","endpoints":{"tcp":"h:1"}}`, "id", "want 1 to 63 of A-Z, a-z, 0-9, '_' and '-'"},
		{`{"id":5,"service":"user"}`, "id", "want a JSON string"},
		{`{"id":"a.b","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":"a b","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":"*","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":">","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":"é","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":"a\u0000","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":"` + long + `","service":"user"}`, "id", "want 1 to 63 of"},
		{`{"id":"1"}`, "service", "want a DNS label"},
		{`{"id":"1","service":["user"]}`, "service", "want a JSON string"},
		{`{"id":"1","service":"User"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"user_a"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"-user"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"user-"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"a.b"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"us er"}`, "service", "want a DNS label"},
		{`{"id":"1","service":">"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"bücher"}`, "service", "want a DNS label"},
		{`{"id":"1","service":"` + long + `"}`, "service", "want a DNS label"},
		{with(`"location":"us-east-1"`), "location", "want a JSON object"},
		{with(`"location":{"region":1}`), "location.region", "want a JSON string"},
		{with(`"location":{"region":"us.east"}`), "location.region", "want 1 to 63 of"},
		{with(`"location":{"zone":"us east"}`), "location.zone", "want 1 to 63 of"},
		{with(`"location":{"zone":"` + long + `"}`), "location.zone", "want 1 to 63 of"},
		{with(`"location":{"rack":"a/b"}`), "location.rack", "want at most 255 bytes of printable text without '/'"},
		{with(`"location":{"host":"a\tb"}`), "location.host", "want at most 255 bytes of printable text without '/'"},
		{with(`"incarnation":"\u001b[2J"`), "incarnation", "want at most 255 bytes of printable text"},
		{with(`"version":"` + strings.Repeat("1", 256) + `"`), "version", "want at most 255 bytes of printable text"},
		{with(`"status":"UP"`), "status", "want up, draining or not_ready"},
		{with(`"status":true`), "status", "want a JSON string"},
		{with(`"weight":0`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":-0`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":-1`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":10001`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":1.5`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":1e2`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":99999999999999999999`), "weight", "want a whole number, 1 to 10000"},
		{with(`"weight":"100"`), "weight", "want a whole number, 1 to 10000"},
		{with(`"ttl":15`), "ttl", "want a JSON string"},
		{with(`"ttl":"15"`), "ttl", `want whole seconds from 1s to 1h, such as "15s"`},
		{with(`"ttl":"0s"`), "ttl", "want whole seconds"},
		{with(`"ttl":"-15s"`), "ttl", "want whole seconds"},
		{with(`"ttl":"1.5s"`), "ttl", "want whole seconds"},
		{with(`"ttl":"900ms"`), "ttl", "want whole seconds"},
		{with(`"ttl":"3601s"`), "ttl", "want whole seconds"},
		{with(`"ttl":"9999999h"`), "ttl", "want whole seconds"},
		{with(`"started":1700000000`), "started", "want a JSON string"},
		{with(`"started":"yesterday"`), "started", "want a time of the years 1970 to 9999"},
		{with(`"started":"2026-11-21"`), "started", "want a time of the years 1970 to 9999"},
		{with(`"started":"0000-01-01T00:00:00Z"`), "started", "want a time of the years 1970 to 9999"},
		{with(`"started":"1969-12-31T23:59:59Z"`), "started", "want a time of the years 1970 to 9999"},
		{with(`"started":"9999-12-31T23:59:59-23:59"`), "started", "want a time of the years 1970 to 9999"},
		{`{"id":"1","service":"user"}`, "endpoints", "want at least one"},
		{`{"id":"1","service":"user","endpoints":{}}`, "endpoints", "want at least one"},
		{`{"id":"1","service":"user","endpoints":[]}`, "endpoints", "want a JSON object"},
		{`{"id":"1","service":"user","endpoints":{"http":8080}}`, "endpoints", "want a JSON string"},
		{`{"id":"1","service":"user","endpoints":{"":"10.0.0.5:80"}}`, "endpoints", "want a protocol of http, https, grpc, tcp or nats"},
		{`{"id":"1","service":"user","endpoints":{"HTTP":"10.0.0.5:80"}}`, "endpoints", "want a protocol of"},
		{`{"id":"1","service":"user","endpoints":{"http":""}}`, "endpoints.http", "want host:port"},
		{`{"id":"1","service":"user","endpoints":{"http":null}}`, "endpoints.http", "want host:port"},
		{`{"id":"1","service":"user","endpoints":{"nats":"a.*"}}`, "endpoints.nats", "want a NATS subject"},
		{with(`"metadata":{"m":1}`), "metadata", "want a JSON string"},
		{with(`"metadata":{"":"x"}`), "metadata", "want names of 1 to 255 bytes of printable text"},
		{with(`"metadata":{"a\nb":"x"}`), "metadata", "want names of 1 to 255 bytes of printable text"},
		{with(`"coordinate":[]`), "coordinate", "want a JSON object"},
		{with(`"coordinate":{}`), "coordinate.vec", "want 8"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7]}`), "coordinate.vec", "want 8"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,8,9]}`), "coordinate.vec", "want 8"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,"8"]}`), "coordinate.vec", "want a JSON number"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,10.5]}`), "coordinate.vec", "want finite seconds, at most 10"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,1e400]}`), "coordinate.vec", "want a JSON number"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,8],"error":-1}`), "coordinate.error", "want no negative value"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,8],"height":-1e-9}`), "coordinate.height", "want no negative value"},
		{with(`"coordinate":{"vec":[1,2,3,4,5,6,7,8],"adjustment":-11}`), "coordinate.adjustment", "want finite seconds"},
	} {
		in, err := events.Decode([]byte(tt.record))
		fe, ok := errors.AsType[*events.FieldError](err)
		if in != nil || !ok || fe.Field != tt.field || !strings.HasPrefix(fe.Rule, tt.rule) {
			t.Errorf("%.200s: got %v, want field %s, rule %s", tt.record, err, tt.field, tt.rule)
		}
		if ok && (!strings.Contains(err.Error(), fe.Field) || !strings.Contains(err.Error(), fe.Rule)) {
			t.Errorf("%v does not name field %s and rule %s", err, fe.Field, fe.Rule)
		}
	}
}

func with(extra string) string { return strings.Replace(least, "{", "{"+extra+",", 1) }

func TestErrorsQuoteLittle(t *testing.T) {
	long := strings.Repeat("x", 60_000)
	for _, record := range []string{
		`{"id":"` + long + `","service":"user"}`,
		`{"id":"1","service":"` + long + `"}`,
		with(`"ttl":"` + long + `"`),
		with(`"started":"` + long + `"`),
		with(`"weight":1` + strings.Repeat("0", 60_000)),
		`{"id":"1","service":"user","endpoints":{"` + long + `":"x"}}`,
		`{"id":"1","service":"user","endpoints":{"http":"` + long + `"}}`,
		with(`"metadata":{"` + long + `":"x"}`),
		with(`"metadata":{"m":"` + long),
		with(`"` + long + `":tru`),
		`"` + long + `"`,
		long,
	} {
		_, err := events.Decode([]byte(record))
		if err == nil {
			t.Errorf("%.40s… is accepted", record)
		} else if len(err.Error()) > 300 {
			t.Errorf("%.40s…: an error of %d bytes", record, len(err.Error()))
		}
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
		{func(in *events.Instance) { in.Weight = -1 }, "events: weight"},
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
	for _, data := range []string{`null`, `{"id":5}`, `{"ttl":"soon"}`, `{"weight":0}`} {
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

func TestDecodeKeepsNothingOfItsArgument(t *testing.T) {
	for _, record := range []string{userRecord, strings.Replace(userRecord, `"a"`, `"\u0061"`, 1)} {
		data := []byte(record)
		in, err := events.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		for i := range data {
			data[i] = 'x'
		}
		for range 10 { // whoever decodes next
			if _, err := events.Decode([]byte(with(`"version":"` + strings.Repeat("y", 200) + `"`))); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(user(), *in); diff != "" {
			t.Error(diff)
		}
	}
}
