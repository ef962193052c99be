package events_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

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

func TestTextsMayHoldAllThatJSONCanExpress(t *testing.T) {
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
		`"endpoints":{"http":"10.0.0.5:1","http":"10.0.0.5:2"},"location":{"region":"r","zone":"a","zone":"b"},"metadata":{"m":"1","m":"2"},` +
		`"ttl":"5s","ttl":""}`))
	if err != nil {
		t.Fatal(err)
	}
	want := events.Instance{
		ID: "2", Service: "user", Endpoints: map[string]string{"http": "10.0.0.5:2"},
		Location: topology.Location{Region: "r", Zone: "b"}, Status: events.Up, Weight: 2,
		Metadata: map[string]string{"m": "2"}, TTL: events.DefaultTTL,
	}
	if diff := cmp.Diff(want, *in); diff != "" {
		t.Error(diff)
	}
}

func TestInvalidRecordsAreRefused(t *testing.T) {
	with := func(extra string) string { return strings.Replace(least, "{", "{"+extra+",", 1) }
	for _, tt := range []struct{ name, record, want string }{
		{"nothing", "", `events: instance "": want a JSON object`},
		{"only space", " \n", "want a JSON object"},
		{"null", "null", `events: instance "null": want a JSON object`},
		{"null in spaces", " null\n", `events: instance "null": want a JSON object`},
		{"an array", "[" + least + "]", "want a JSON object"},
		{"a string", `"user"`, "want a JSON object"},
		{"a number", "15", "want a JSON object"},
		{"cut off", least[:len(least)-1], "unexpected end of JSON input"},
		{"trailing data", least + "x", "invalid character 'x' after top-level value"},
		{"a second record", least + least, "invalid character '{' after top-level value"},
		{"a comma too many", strings.TrimSuffix(least, "}") + ",}", "invalid character '}'"},
		{"a comment", "/**/" + least, "want a JSON object"},
		{"invalid UTF-8", with("\"metadata\":{\"m\":\"\xff\"}"), "events: decode an instance: not UTF-8"},
		{"a control character", with("\"version\":\"a\x01b\""), "invalid character '\\x01' in string"},
		{"a line break in a text", with("\"version\":\"a\nb\""), "invalid character '\\n' in string"},
		{"an unknown escape", with(`"version":"\x41"`), "events: decode an instance: invalid "},
		{"a short escape", with(`"version":"\u41"`), "events: decode an instance: invalid "},
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
		{`{"id":"1","service":"a..b"}`, "service", "want up to 8 labels"},
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
		{with(`"weight":-1`), "weight", "want a whole number, 0 to 10000"},
		{with(`"weight":10001`), "weight", "want a whole number, 0 to 10000"},
		{with(`"weight":1.5`), "weight", "want a whole number, 0 to 10000"},
		{with(`"weight":1e2`), "weight", "want a whole number, 0 to 10000"},
		{with(`"weight":99999999999999999999`), "weight", "want a whole number, 0 to 10000"},
		{with(`"weight":"100"`), "weight", "want a whole number, 0 to 10000"},
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
		{`{"id":"1","service":"user","endpoints":{"":"10.0.0.5:80"}}`, "endpoints", "want a protocol of http, https, grpc, grpcs, tcp, udp or nats"},
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
		with(`"metadata":{"` + long + `":1}`),
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
		for range 10 { // the next to decode
			if _, err := events.Decode([]byte(with(`"version":"` + strings.Repeat("y", 200) + `"`))); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(user(), *in); diff != "" {
			t.Error(diff)
		}
	}
}
