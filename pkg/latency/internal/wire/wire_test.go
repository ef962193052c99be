package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

const batch = `{"seq":7,"coordinate":{"vec":[0.1,0,0,0,0,0,0,0],"error":0.2,"adjustment":0,"height":0.01},` +
	`"samples":[{"id":"user-1","incarnation":"a","rtt_us":412,"count":3,"age_ms":800},` +
	`{"id":"user-1","incarnation":"b","place":"us/us-a","rtt_us":5,"count":1,"age_ms":0}],` +
	`"unloaded":[{"circle":"zone","protocol":"http","duration_us":20100},{"circle":"region","duration_us":1}]}`

var wantBatch = wire.Batch{
	Sequence: 7, Coordinate: &events.Coordinate{Vec: [8]float64{0.1}, Error: 0.2, Height: 0.01},
	Samples:  []wire.Sample{{ID: "user-1", Incarnation: "a", RTT: 412 * time.Microsecond, Count: 3, Age: 800 * time.Millisecond}, {ID: "user-1", Incarnation: "b", Place: "us/us-a", RTT: 5 * time.Microsecond, Count: 1}},
	Unloaded: []wire.Unloaded{{Circle: "zone", Protocol: "http", Duration: 20100 * time.Microsecond}, {Circle: "region", Duration: time.Microsecond}},
}

func TestABatchIsReadAsItIsWritten(t *testing.T) {
	got, rejected, err := wire.DecodeBatch([]byte(batch))
	if err != nil || rejected > 0 || !cmp.Equal(got, wantBatch) {
		t.Fatalf("%d rejected, %v, %s", rejected, err, cmp.Diff(wantBatch, got))
	}
	data, err := wire.EncodeBatch(got)
	if err != nil || string(data) != batch {
		t.Errorf("%s, %v, want %s", data, err, batch)
	}
}

// What cannot be true is left out, and the rest is believed.
func TestOnlySamplesOutOfBoundsAreLeftOut(t *testing.T) {
	const good = `{"id":"b","rtt_us":1,"count":1,"age_ms":0}`
	for _, bad := range []string{
		`{"id":"a","rtt_us":0,"count":1,"age_ms":0}`, `{"id":"a","rtt_us":-1,"count":1,"age_ms":0}`, `{"id":"a","rtt_us":10000001,"count":1,"age_ms":0}`,
		`{"id":"a","rtt_us":"1","count":1,"age_ms":0}`, `{"id":"a","rtt_us":1,"count":0,"age_ms":0}`, `{"id":"a","rtt_us":1,"count":1,"age_ms":-1}`,
		`{"id":"a.b","rtt_us":1,"count":1,"age_ms":0}`, `{"id":"a","rtt_us":1e400,"count":1,"age_ms":0}`, `{"id":"a","rtt_us":null,"count":1,"age_ms":0}`, `7`, `null`, `{"id":"a","place":"\n","rtt_us":1,"count":1,"age_ms":0}`,
	} {
		b, rejected, err := wire.DecodeBatch([]byte(`{"seq":1,"samples":[` + bad + `,` + good + `]}`))
		if err != nil || rejected != 1 || len(b.Samples) != 1 || b.Samples[0].ID != "b" {
			t.Errorf("%s: %d rejected, %v, %+v", bad, rejected, err, b)
		}
	}
	for _, bad := range []string{`7`, `{}`, `[7]`, `[null]`, `[{"circle":"","duration_us":5}]`, `[{"circle":"zone","duration_us":0.5}]`, `[{"circle":"zone","duration_us":60000001}]`, `[{"circle":"zone","duration_us":"5"}]`, `[{"circle":"zone","protocol":"\n","duration_us":5}]`, "[" + strings.Repeat("1,", 64) + "1]"} {
		b, rejected, err := wire.DecodeBatch([]byte(`{"seq":1,"samples":[` + good + `],"unloaded":` + bad + `}`))
		if err != nil || rejected != 1 || len(b.Samples) != 1 || len(b.Unloaded) != 0 {
			t.Errorf("%s: %d rejected, %v, %+v", bad, rejected, err, b)
		}
	}
	for _, bad := range []string{"", "null", "[]", "NaN", `{"seq":-1}`, `{"samples":7}`, strings.Repeat(" ", 70000) + batch, `{"samples":[` + strings.Repeat("1,", 600) + `1]}`} {
		if b, _, err := wire.DecodeBatch([]byte(bad)); err == nil {
			t.Errorf("%.40s: accepted as %+v", bad, b)
		}
	}
}

func TestAReportIsItsSubject(t *testing.T) {
	for subject, want := range map[string]wire.Report{
		"latency.us-east-1.us-east-1a.user.x1": {Region: "us-east-1", Zone: "us-east-1a", Service: "user", Reporter: "x1"},
		"latency._._.user.x1":                  {Service: "user", Reporter: "x1"},
		"latency.eu._.payments=.=user.x1":      {Region: "eu", Service: "payments.user", Reporter: "x1"},
	} {
		got, err := wire.ParseReport(subject)
		if err != nil || got.Subject() != subject || got.Service != want.Service || got.Reporter != want.Reporter {
			t.Errorf("%s: %+v, %v", subject, got, err)
		}
	}
	for _, bad := range []string{"", "latency", "latency.a.b.c", "latency.a.b.C.d", "latency.a.b.c.d.e", "latency..b.c.d", "latency.a.b.c.*", "beat.a.b.c.d", "latency.a.b.c=.d.e", "latency.a.b.=c.d", "latency.a.b.c=.=d"} {
		if r, err := wire.ParseReport(bad); err == nil {
			t.Errorf("%q: accepted as %+v", bad, r)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	f.Add([]byte(batch))
	f.Add([]byte(`{"seq":18446744073709551615,"leaving":true,"coordinate":{"vec":[1]},"samples":[{},null,{"rtt_us":1e-9}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _, err := wire.DecodeBatch(data)
		if err != nil {
			return
		}
		for _, s := range b.Samples {
			if s.RTT <= 0 || s.RTT > 10*time.Second || s.Count < 1 || s.Age < 0 || events.ValidateName("id", s.ID) != nil {
				t.Fatalf("%s: accepted %+v", data, s)
			}
		}
		for _, u := range b.Unloaded {
			if u.Circle == "" || u.Duration < time.Microsecond || u.Duration > time.Minute {
				t.Fatalf("%s: accepted %+v", data, u)
			}
		}
		if b.Coordinate != nil && b.Coordinate.Validate() != nil {
			t.Fatalf("%s: accepted %+v", data, b.Coordinate)
		}
		again, err := wire.EncodeBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		if c, rejected, err := wire.DecodeBatch(again); len(again) < 60000 && (err != nil || rejected > 0 || len(c.Samples) != len(b.Samples)) {
			t.Fatalf("%s is written as %s: %d rejected, %v", data, again, rejected, err)
		}
	})
}

func FuzzDecodePing(f *testing.F) {
	f.Add([]byte(`{"reporter":"a","rtt_us":300.5,"coordinate":{"vec":[0,0,0,0,0,0,0,0],"error":1,"adjustment":0,"height":0}}`))
	f.Add([]byte(`{"reporter":"a","rtt_us":1e-9,"coordinate":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := wire.DecodeCoordinate(data); err == nil && c.Validate() != nil {
			t.Fatalf("%s: accepted %+v", data, c)
		}
		p, err := wire.DecodePing(data)
		if err != nil {
			return
		}
		if p.RTT <= 0 || p.RTT > 10*time.Second || p.Coordinate.Validate() != nil || events.ValidateName("reporter", p.Reporter) != nil {
			t.Fatalf("%s: accepted %+v", data, p)
		}
		if _, err := wire.EncodePing(p); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add("latency.a.b.user.x")
	f.Add("latency._.b.user.x")
	f.Add("latency._.b.payments=.=user.x")
	f.Fuzz(func(t *testing.T, subject string) {
		if r, err := wire.ParseReport(subject); err == nil && r.Subject() != subject {
			t.Fatalf("%q is %q", subject, r.Subject())
		}
	})
}
