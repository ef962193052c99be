package strict_test

import (
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/internal/strict"
	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestTellsWhichFieldIsProbablyMeant(t *testing.T) {
	for data, want := range map[string]string{
		`{}`: "", `null`: "", `[1]`: "", `7`: "", `{`: "", `{"location":null}`: "", `{"location":7,"metadata":{"any":"x"}}`: "",
		`{"wieght":1}`:                  `unknown field "wieght", did you mean "weight"?`,
		`{"location":{"Zone":"a"}}`:     `unknown field "location.Zone", did you mean "zone"?`,
		`{"endpoint":{}}`:               `did you mean "endpoints"?`,
		`{"healthcheck":"x"}`:           `unknown field "healthcheck" (want one of coordinate, endpoints,`,
		`{"":1}`:                        `unknown field "" (want`,
		`{"location":{"datacenter":1}}`: `unknown field "location.datacenter" (want one of host, rack, region, zone)`,
	} {
		err := strict.Check([]byte(data), strict.Instance())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", data, err, want)
		}
	}
}

// All fields of a record are known.
func TestWhatARecordHasIsKnown(t *testing.T) {
	data, err := events.Encode(events.Instance{
		Service: "user", ID: "u", Incarnation: "i", Endpoints: map[string]string{"http": "10.0.0.5:80"}, Status: events.Up, Version: "1", Weight: 1,
		Metadata: map[string]string{"a": "b"}, Coordinate: &events.Coordinate{Error: 0.1}, TTL: events.DefaultTTL,
	})
	if err == nil {
		err = strict.Check(data, strict.Instance())
	}
	if err != nil {
		t.Error(err)
	}
}

func TestAFieldIsThereOnce(t *testing.T) {
	for data, want := range map[string]string{
		`{"id":"a","service":"id","metadata":{"id":"id","x":"y"},"location":{"zone":"a","region":"zone"}}`: "",
		`{"id":"a","metadata":[{"a":1},{"a":1}],"version":{"a":{"b":[1,{"b":"b"}]},"b":"a"}}`:              "",
		`{"id":"a","service":"user","id":"b"}`:                                                             `field "id" is there twice`,
		`{"id":"a","endpoints":{"http":"a:1","http":"b:1"}`:                                                `field "endpoints.http" is there twice`, // and no end
		`{"metadata":{"list":[1,{"a":[{}],"a":2}]}}`:                                                       `field "metadata.list.a" is there twice`,
		`{"id":"a","\u0069d":"b"}`:                                                                         `field "id" is there twice`,
	} {
		err := strict.Check([]byte(data), strict.Instance())
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %s", data, err, want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"wieght":1,"location":{"a":{"b":1}}}`))
	f.Add([]byte(`{"id":[{"a":{}},{"a":1,"a":2}],"id":null} {}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := strict.Check(data, strict.Instance()); err != nil && err.Error() == "" {
			t.Fatal("an error without a text")
		}
	})
}
