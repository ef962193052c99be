package events_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func addRecords(f *testing.F) {
	f.Helper()
	for _, s := range []string{
		"", "null", "{}", "[]", least, typical, withCoordinate, userRecord,
		strings.Replace(userRecord, `"a"`, `"\u0061é\ud800"`, 1),
		with(`"metadata":{"m":null,"n":"1","n":"2"},"later":[1,-0.5e+3,{"x":[null,true]}]`),
		with(`"later":nan`), with(`"later":01`), with(`"ID":"2"`), with(`"Location":{"ZONE":"a"}`),
		with(`"weight":0`), with(`"weight":1e2`), with(`"weight":007`), with(`"weight":-0`), with(`"ttl":"1m30s"`), with(`"ttl":"0"`),
		with(`"started":"2026-11-21T09:00:00.5+01:00"`), with(`"started":"0001-01-01T00:00:00Z"`),
		with(`"coordinate":{"vec":[1,2,3,4,5,6,7,8],"vec":[1]}`), with(`"coordinate":{"vec":[1,null,3,4,5,6,7,-0.0],"height":1e-400}`),
		with(`"location":{"region":"_","zone":"é"}`), with(`"id":"a.b"`), with("\"version\":\"\x7f\""), with("\"version\":\"\xff\""),
		with(`"endpoints":{"nats":"$JS","nats":"a.b"}`), with(`"endpoints":{"":""}`), least + " x", "\t" + least,
		with(`"later":` + strings.Repeat("[", 301) + strings.Repeat("]", 301)),
	} {
		f.Add([]byte(s))
	}
}

func FuzzDecode(f *testing.F) {
	addRecords(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		in, err := events.Decode(data)
		if !bytes.Equal(data, before) {
			t.Fatal("Decode changed its argument")
		}
		if err != nil {
			if in != nil || len(err.Error()) > 1000 {
				t.Fatalf("%v, an error of %d bytes", in, len(err.Error()))
			}
			return
		}
		if err := in.Validate(); err != nil {
			t.Fatalf("%s was accepted: %v", data, err)
		}
		checkTokens(t, in.Key())

		encoded, err := events.Encode(*in)
		if err != nil {
			if len(data) > events.MaxSize/8 {
				return // escapes and defaults take room
			}
			t.Fatalf("%s does not encode: %v", data, err)
		}
		for i := range data {
			data[i] = 'x' // nothing of it may be kept
		}
		back, err := events.Decode(encoded)
		if err != nil {
			t.Fatalf("%s does not decode: %v", encoded, err)
		}
		if diff := cmp.Diff(in, back, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s comes back as %s\n%s", before, encoded, diff)
		}
		if again, err := events.Encode(*back); err != nil || !bytes.Equal(again, encoded) {
			t.Fatalf("%s is encoded again as %s, %v", encoded, again, err)
		}
	})
}

func FuzzDecodeAgrees(f *testing.F) {
	addRecords(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := events.Decode(data)
		want, ok := decodeReference(data)
		if (err == nil) != ok {
			t.Fatalf("%q: %+v, %v, want %+v, %t", data, in, err, want, ok)
		}
		if !ok {
			return
		}
		if diff := cmp.Diff(want, in, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q: %s", data, diff)
		}
	})
}
