package latency_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

var sink time.Duration

func BenchmarkMeasured(b *testing.B) {
	b.Run("baseline=atomic", func(b *testing.B) {
		var v atomic.Int64
		v.Store(1)
		b.ReportAllocs()
		for b.Loop() {
			sink = time.Duration(v.Load())
		}
	})
	p := start(b, nil, latency.Options{Fresh: time.Hour})
	pa := p.Path(latency.Target{})
	pa.Observe(time.Millisecond)
	b.Run("measured", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink, _ = pa.Measured()
		}
	})
	b.Run("estimate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sink = pa.Estimate(time.Second).Distance
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			var d time.Duration
			for pb.Next() {
				d, _ = pa.Measured()
			}
			_ = d
		})
	})
}

// Of a busy caller: most samples come too fast to be taken.
func BenchmarkObserve(b *testing.B) {
	p := start(b, nil, latency.Options{}).notify(func(string) {})
	pa := p.Path(latency.Target{})
	p.group("user").Set(members(pa))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		pa.Observe(time.Millisecond + time.Duration(i%16)*time.Microsecond)
	}
}

// Set as a selector calls it after every rebuild of its table.
func BenchmarkSet(b *testing.B) {
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errRefused }
	for _, paths := range []int{10, 10_000} {
		p := start(b, nil, latency.Options{Dial: refuse})
		list := makePaths(p, paths)
		p.group("user").Set(members(list...))
		b.Run(fmt.Sprintf("unchanged/paths=%d", paths), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.group("user").Set(members(list...))
			}
		})
		less := slices.Delete(slices.Clone(list), paths/2, paths/2+1)
		b.Run(fmt.Sprintf("one-leaves-or-comes/paths=%d", paths), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					p.group("user").Set(members(less...))
				} else {
					p.group("user").Set(members(list...))
				}
			}
		})
		turned := slices.Clone(list)
		slices.Reverse(turned)
		b.Run(fmt.Sprintf("all-change-places/paths=%d", paths), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					p.group("user").Set(members(turned...))
				} else {
					p.group("user").Set(members(list...))
				}
			}
		})
	}
}

// Ranking a service with a measured distance of each instance.
func BenchmarkRank(b *testing.B) {
	for _, paths := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("paths=%d", paths), func(b *testing.B) {
			p := start(b, newNetwork(silent), latency.Options{})
			list := makePaths(p, paths)
			for i, pa := range list {
				pa.Observe(time.Duration(1+i*7919%paths) * time.Microsecond * 10)
			}
			p.group("user").Set(members(list...))
			b.ReportAllocs()
			for b.Loop() {
				p.group("user").Rank()
			}
		})
	}
}
