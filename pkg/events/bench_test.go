package events_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	typical = `{"id":"user-7f3a","service":"user","incarnation":"01JD6Z0Q5W8K3V9T2M4N7P1R6S",` +
		`"endpoints":{"grpc":"10.0.0.5:9090","http":"10.0.0.5:8080"},` +
		`"location":{"region":"us-east-1","zone":"us-east-1a","rack":"r12","host":"node-3"},"status":"up",` +
		`"version":"1.4.2","weight":100,"metadata":{"team":"a"},"started":"2026-11-21T08:00:00Z","ttl":"15s"}`
	coordinate = `"coordinate":{"vec":[0.0012,-0.0123,0.0304,0.0004,-0.005,0.0061,0.0007,0.012],` +
		`"error":0.21,"adjustment":-0.0001,"height":0.00021},`
)

var withCoordinate = strings.Replace(typical, `"started"`, coordinate+`"started"`, 1)

func BenchmarkDecode(b *testing.B) {
	for _, bb := range []struct{ name, record string }{
		{"typical", typical},
		{"coordinate", withCoordinate},
		{"small", `{"id":"1","service":"user","endpoints":{"http":"10.0.0.5:8080"}}`},
	} {
		data := []byte(bb.record)
		b.Run("record="+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := events.Decode(data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The JSON alone, read by encoding/json.
func BenchmarkDecodeReference(b *testing.B) {
	b.ReportAllocs()
	data := []byte(typical)
	for b.Loop() {
		var w reference
		if err := json.Unmarshal(data, &w); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	in, err := events.Decode([]byte(typical))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.Encode(*in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	in, err := events.Decode([]byte(withCoordinate))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := in.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.ParseKey("inst.user.us-east-1.us-east-1a.user-7f3a"); err != nil {
			b.Fatal(err)
		}
	}
}

// What a caller holds for each instance that it knows.
func BenchmarkHeld(b *testing.B) {
	const n = 10_000
	for _, bb := range []struct{ name, record string }{{"typical", typical}, {"coordinate", withCoordinate}} {
		b.Run("record="+bb.name, func(b *testing.B) {
			records := make([][]byte, n)
			for i := range records {
				id, ip := fmt.Sprintf("user-%04x", i), fmt.Sprintf("10.0.%d.%d:", i/256, i%256)
				records[i] = []byte(strings.NewReplacer("user-7f3a", id, "10.0.0.5:", ip).Replace(bb.record))
			}
			var held []*events.Instance
			var before, after runtime.MemStats
			for b.Loop() {
				held = make([]*events.Instance, n)
				runtime.GC()
				runtime.ReadMemStats(&before)
				for i, data := range records {
					in, err := events.Decode(data)
					if err != nil {
						b.Fatal(err)
					}
					held[i] = in
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "bytes/instance")
			b.ReportMetric(float64(after.HeapObjects-before.HeapObjects)/n, "objects/instance")
			runtime.KeepAlive(held)
		})
	}
}
