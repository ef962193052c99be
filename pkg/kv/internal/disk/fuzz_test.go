package disk

import (
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const body = `{"id":"a","service":"user","incarnation":"x","endpoints":{"http":"10.0.0.5:8080"},"location":{"region":"r","zone":"z"},"status":"up","weight":100,"ttl":"15s"}`

// FuzzStored reads files with any content.
func FuzzStored(f *testing.F) {
	f.Add([]byte(`{"version":1,"service":"user","saved":"2000-01-01T00:00:00Z","instances":[{"revision":7,"instance":` + body + `}]}`))
	f.Add([]byte(`{"version":1,"instances":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeStored(data)
		if err != nil {
			return
		}
		known := map[events.Key]bool{}
		for _, e := range s.Entries {
			if err := e.Validate(); err != nil || e.Service != s.Service || known[e.Key()] {
				t.Fatalf("%+v of %q: %v", e.Instance, s.Service, err)
			}
			known[e.Key()] = true
		}
		again, err := encodeStored(events.Snapshot{Service: s.Service, Entries: s.Entries}, s.StaleSince)
		if err != nil {
			return // a time that JSON cannot write
		}
		if back, err := decodeStored(again); err != nil || len(back.Entries) != len(s.Entries) {
			t.Fatalf("%d entries, %v", len(back.Entries), err)
		}
	})
}
