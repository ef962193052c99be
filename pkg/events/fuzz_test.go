package events_test

import (
	"bytes"
	"math/rand/v2"
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
		with(`"endpoints":{"nats":"$JS","nats":"a.b"}`), strings.Replace(least, `"user"`, `"payments.User"`, 1), with(`"endpoints":{"http.admin":"h:1","http":"h:2","udp":"h:3","grpcs":"h:4"}`),
		with(`"endpoints":{"http.admin":"h:1","http\u002eadmin":"h:2"}`), with(`"endpoints":{"http.":"h:1"}`), with(`"location":{"host":"n1"},"endpoints":{"tcp":"unix:/run/a"}`),
		with(`"endpoints":{"grpc.x":"unix:/run/a"}`), with(`"endpoints":{"":""}`), least + " x", "\t" + least,
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
	f.Fuzz(func(t *testing.T, data []byte) { checkAgrees(t, data) })
}

// checkAgrees wants of Decode the result of the reference, and reports whether that
// is an instance.
func checkAgrees(t *testing.T, data []byte) bool {
	t.Helper()
	in, err := events.Decode(data)
	want, ok := decodeReference(data)
	if (err == nil) != ok {
		t.Fatalf("%q: %+v, %v, want %+v, %t", data, in, err, want, ok)
	}
	if !ok {
		return false
	}
	if diff := cmp.Diff(want, in, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("%q: %s", data, diff)
	}
	return true
}

func TestDecodeAgreesOnEveryByteAtEveryOffset(t *testing.T) {
	for pad := range 17 {
		for c := range 256 {
			record := `{"id":"1","service":"user","endpoints":{"http":"h:1"},"metadata":{"m":"` + strings.Repeat("x", pad) + string([]byte{byte(c)}) + `"}}`
			ok := checkAgrees(t, []byte(record))
			if want := c >= ' ' && c < 0x80 && c != '"' && c != '\\'; ok != want {
				t.Fatalf("%q: accepted %t, want %t", record, ok, want)
			}
			checkAgrees(t, []byte(least+strings.Repeat(" ", pad)+string([]byte{byte(c)})))
		}
	}
}

// A fuzzer that changes bytes seldom makes a record that is odd in a new way.
func TestDecodeAgreesOnRandomRecords(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 11))
	one := func(of ...string) string { return of[rnd.IntN(len(of))] }
	// odd is, one time out of some, a value that its field should not have.
	odd := func(usual ...string) string {
		if rnd.IntN(40) > 0 {
			return one(usual...)
		}
		return one(`null`, `true`, `0`, `-0`, `1e2`, `15`, `01`, `+1`, `-`, `1.`, `nan`, `inf`, `""`, `"x"`, `"_"`, `"a b"`, `"é"`, `"\u0061"`,
			`"\ud800"`, `"\x"`, "\"\x01\"", "\"\xff\"", "\"\x80\"", "\"\x7f\"", `[]`, `{}`, `[1,2]`, `{"a":"b","a":"c"}`, `{"a":null}`, ``)
	}
	text := func() string { return odd(`"a"`, `"b-1"`, `"user"`, `"user"`, `"A.b_c"`) }
	number := func() string { return odd(`0`, `1`, `-0.5`, `9.75e0`, `1E-3`, `0.25`, `-0.0`) }
	object := func(members ...func() string) string {
		var b strings.Builder
		b.WriteString(one("{", "{", "{", "{ "))
		for i, n := 0, rnd.IntN(len(members)+2); i < n; i++ {
			if i > 0 {
				b.WriteString(one(",", ",", ",", " , "))
			}
			b.WriteString(members[rnd.IntN(len(members))]())
		}
		b.WriteString("}")
		return b.String()
	}
	member := func(name string, value func() string) func() string {
		return func() string {
			if rnd.IntN(60) == 0 {
				name := strings.ToUpper(name[:1]) + name[1:]
				return `"` + name + `":` + value()
			}
			return `"` + name + `":` + value()
		}
	}
	of := func(values ...string) func() string { return func() string { return odd(values...) } }
	vec := func() string {
		var n []string
		for range 8 - rnd.IntN(20)/19 {
			n = append(n, number())
		}
		return "[" + strings.Join(n, ",") + "]"
	}
	later := member("later", func() string {
		return one(number(), text(), `[`+number()+`]`, `{"x":`+text()+`,"y":[`+number()+`]}`, `true`)
	})
	location := func() string {
		return object(member("region", text), member("zone", text), member("rack", text), member("host", text), later)
	}
	coordinate := func() string {
		return "{" + member("vec", vec)() + "," + strings.TrimPrefix(object(member("error", number), member("height", number),
			member("adjustment", number), later), "{")
	}
	labels := func() string { return object(member("a", text), member("b", text), member("c", text)) }
	optional := []func() string{
		member("incarnation", text), member("location", location), member("status", of(`"up"`, `"draining"`, `"not_ready"`)),
		member("version", text), member("weight", of(`1`, `100`, `10000`)), member("metadata", labels), member("coordinate", coordinate),
		member("started", of(`"2026-11-21T08:00:00Z"`, `"2026-11-21T08:00:00.5+01:00"`)), member("ttl", of(`"15s"`, `"1m30s"`, `"1h"`)), later,
	}
	accepted := 0
	const n = 5_000
	for range n {
		members := []string{member("id", text)(), member("service", text)(), `"endpoints":` + odd(`{"http":"h:1"}`, `{"tcp":"10.0.0.1:2","nats":"a.b"}`, `{"http":"h:1","http.admin":"h:2"}`,
			`{"grpcs.a-1":"h:1","udp":"h:2"}`, `{"tcp":"unix:/run/a"}`, `{"http.A":"h:1"}`)}
		for _, i := range rnd.Perm(len(optional))[:rnd.IntN(len(optional)+1)] {
			members = append(members, optional[i]())
		}
		if rnd.IntN(10) == 0 {
			members = append(members, members[rnd.IntN(len(members))])
		}
		rnd.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		if checkAgrees(t, []byte("{"+strings.Join(members, ",")+"}")) {
			accepted++
		}
	}
	if accepted < n/5 || accepted > n*9/10 {
		t.Errorf("%d of %d records are valid: too few or too many to mean much", accepted, n)
	}
	t.Logf("%d of %d records are valid", accepted, n)
}
