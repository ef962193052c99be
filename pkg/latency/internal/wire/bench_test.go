package wire_test

import (
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// What an instance reads of a ping, and a caller of the answer.
func BenchmarkDecodePing(b *testing.B) {
	c := events.Coordinate{Vec: [8]float64{0.012345, -0.1, 3e-06, 0, 0.000017, 0.5, -0.25, 0.001}, Error: 0.123456, Height: 0.0004}
	ping, err := wire.EncodePing(wire.Ping{Reporter: "checkout-1", RTT: 1234567, Coordinate: c})
	if err != nil {
		b.Fatal(err)
	}
	answer, err := wire.EncodeCoordinate(c)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ping", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := wire.DecodePing(ping); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("answer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := wire.DecodeCoordinate(answer); err != nil {
				b.Fatal(err)
			}
		}
	})
}
