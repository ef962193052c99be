package selector_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var zones = []topology.Location{
	{Region: "us-east-1", Zone: "us-east-1a"},
	{Region: "us-east-1", Zone: "us-east-1b"},
	{Region: "eu-west-1", Zone: "eu-west-1a"},
}

// fleet is n instances, a third of them in each of three circles.
func fleet(n int) []events.Entry {
	entries := make([]events.Entry, n)
	for i := range entries {
		entries[i].Instance = &events.Instance{
			ID: fmt.Sprintf("user-%05d", i), Service: "user", Incarnation: "a",
			Endpoints: map[string]string{events.NATS: "svc.user"},
			Location:  zones[i%3], Status: events.Up, Weight: 100, Started: time.Now().Add(-time.Hour), TTL: 15 * time.Second,
		}
	}
	return sortEntries(entries)
}

func open(tb testing.TB, n int, o selector.Options) (*selector.Selector, *fixed) {
	tb.Helper()
	src := &fixed{make(chan events.Snapshot)}
	o.Source = src
	if o.Location == (topology.Location{}) {
		o.Location = zones[0]
	}
	s, err := selector.New(tb.Context(), nil, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	go func() { src.lists <- events.Snapshot{Service: "user", Entries: fleet(n)} }()
	p, err := s.Pick(tb.Context(), "user")
	if err != nil {
		tb.Fatal(err)
	}
	p.Done(nil)
	return s, src
}

// BenchmarkPick is one pick and its end, by strategy and number of instances.
// The baseline is the least that balancing costs: power of two choices on
// in-flight × moving average over an array, with two readings of the clock.
func BenchmarkPick(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("strategy=baseline/instances=%d", n), func(b *testing.B) { baseline(b, max(1, n/3)) })
		for _, strategy := range selector.Strategies() {
			b.Run(fmt.Sprintf("strategy=%s/instances=%d", strategy, n), func(b *testing.B) {
				s, _ := open(b, n, selector.Options{Strategy: strategy})
				ctx := b.Context()
				b.ReportAllocs()
				for b.Loop() {
					p, err := s.Pick(ctx, "user")
					if err != nil {
						b.Fatal(err)
					}
					p.Done(nil)
				}
			})
		}
	}
}

// BenchmarkPickBounded is BenchmarkPick where calls in flight are bounded.
func BenchmarkPickBounded(b *testing.B) {
	for name, bound := range map[string]selector.Bulkhead{"fixed": {PerInstance: 100, PerService: 1000, Queue: 10}, "adaptive": {Adaptive: true}} {
		b.Run(name, func(b *testing.B) {
			s, _ := open(b, 1000, selector.Options{Bulkhead: bound})
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				p, err := s.Pick(ctx, "user")
				if err != nil {
					b.Fatal(err)
				}
				p.Done(nil)
			}
		})
	}
}

type plain struct {
	inFlight atomic.Int64
	average  atomic.Uint64
	_        [48]byte
}

func baseline(b *testing.B, n int) {
	nodes := make([]plain, n)
	epoch := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		start := time.Since(epoch)
		r := rand.Uint64()
		x, y := &nodes[(r>>32)*uint64(n)>>32], &nodes[(r&(1<<32-1))*uint64(n)>>32]
		if float64(y.inFlight.Load()+1)*math.Float64frombits(y.average.Load()) < float64(x.inFlight.Load()+1)*math.Float64frombits(x.average.Load()) {
			x = y
		}
		x.inFlight.Add(1)
		took := float64(time.Since(epoch) - start)
		average := math.Float64frombits(x.average.Load())
		x.average.Store(math.Float64bits(average + (took-average)/32))
		x.inFlight.Add(-1)
	}
}

func BenchmarkPickParallel(b *testing.B) {
	for _, n := range []int{10, 10000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			s, _ := open(b, n, selector.Options{})
			ctx := b.Context()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p, err := s.Pick(ctx, "user")
					if err != nil {
						b.Error(err)
						return
					}
					p.Done(nil)
				}
			})
		})
	}
}

// BenchmarkApply is one change of one instance among many, from the source's
// snapshot to the new table.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		all := fleet(n)
		apply := func(b *testing.B, next func(i int) []events.Entry) {
			_, src := open(b, n, selector.Options{})
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				// A send returns when the one before has been applied.
				src.lists <- events.Snapshot{Service: "user", Entries: next(i)}
			}
		}
		b.Run(fmt.Sprintf("change=update/instances=%d", n), func(b *testing.B) {
			entries := all
			apply(b, func(i int) []events.Entry {
				entries = slices.Clone(entries)
				in := *entries[i%n].Instance
				in.Version = fmt.Sprint(i)
				entries[i%n].Instance = &in
				return entries
			})
		})
		b.Run(fmt.Sprintf("change=leave-join/instances=%d", n), func(b *testing.B) {
			without := slices.Delete(slices.Clone(all), n/3, n/3+1)
			apply(b, func(i int) []events.Entry {
				if i%2 == 0 {
					return without
				}
				return all
			})
		})
	}
}

// BenchmarkPickFor is a pick as the HTTP transport asks for it, and one for
// another place.
func BenchmarkPickFor(b *testing.B) {
	for _, r := range []struct {
		name string
		selector.Request
	}{
		{"protocol", selector.Request{Service: "user", Protocol: events.NATS}},
		{"from", selector.Request{Service: "user", From: &zones[1]}},
		{"avoid", selector.Request{Service: "user", Avoid: []string{"user-00000"}}},
	} {
		b.Run("request="+r.name, func(b *testing.B) {
			s, _ := open(b, 1000, selector.Options{})
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				p, err := s.PickFor(ctx, r.Request)
				if err != nil {
					b.Fatal(err)
				}
				p.Done(nil)
			}
		})
	}
}

// BenchmarkPickFromHosts is a pick of a router whose callers say on which host they are.
func BenchmarkPickFromHosts(b *testing.B) {
	for _, n := range []int{1, 50, 200} {
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			s, _ := open(b, 2000, selector.Options{})
			ctx := b.Context()
			hosts := make([]topology.Location, n)
			for i := range hosts {
				hosts[i] = topology.Location{Region: zones[1].Region, Zone: zones[1].Zone, Rack: fmt.Sprint("r", i%10), Host: fmt.Sprint("h", i)}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p, err := s.PickFor(ctx, selector.Request{Service: "user", From: &hosts[i%n]})
				if err != nil {
					b.Fatal(err)
				}
				p.Done(nil)
			}
		})
	}
}

func BenchmarkDo(b *testing.B) {
	s, _ := open(b, 1000, selector.Options{})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Do(ctx, "user", func(context.Context, *events.Instance) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHeld is the memory that a caller holds for each instance of a service,
// besides the instance itself: what was learned of it, its breaker, its path, its places
// in the list and in the table.
func BenchmarkHeld(b *testing.B) {
	const n = 10000
	entries := fleet(n)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var held uint64
	for b.Loop() {
		before := heap()
		s, err := selector.New(b.Context(), nil, selector.Options{Source: always(entries...), Location: zones[0]})
		if err != nil {
			b.Fatal(err)
		}
		p, err := s.Pick(b.Context(), "user")
		if err != nil {
			b.Fatal(err)
		}
		p.Done(nil)
		held = heap() - before
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	runtime.KeepAlive(entries)
	b.ReportMetric(float64(held)/n, "B/instance")
	b.ReportMetric(0, "ns/op")
}

// benchSubsets is how many subsets are in use in the benchmarks with Where.
const benchSubsets = 50

// inSubsets gives each instance of a fleet one of benchSubsets versions.
func inSubsets(entries []events.Entry) []events.Entry {
	for i, e := range entries {
		e.Version = fmt.Sprintf("%d.0.0", i/3%benchSubsets)
	}
	return entries
}

// useSubsets asks for each subset, so that all have tables.
func useSubsets(b *testing.B, s *selector.Selector) {
	for i := range benchSubsets {
		p, err := s.PickFor(b.Context(), selector.Request{Service: "user", Where: fmt.Sprintf("version=%d.0.0", i)})
		if err != nil {
			b.Fatal(err)
		}
		p.Done(nil)
	}
}

// BenchmarkPickWhere is a pick in one of 50 subsets that are in use, the same with the
// subsets in turns, and one without a subset that is asked for in the same way.
func BenchmarkPickWhere(b *testing.B) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.RoundRobin, selector.ConsistentHash} {
		for _, n := range []int{1000, 10000} {
			for _, kind := range []string{"none", "one", "turns"} {
				b.Run(fmt.Sprintf("strategy=%s/instances=%d/where=%s", strategy, n, kind), func(b *testing.B) {
					s, src := open(b, n, selector.Options{Strategy: strategy})
					list := events.Snapshot{Service: "user", Entries: inSubsets(fleet(n))}
					src.lists <- list
					src.lists <- list // the one before is applied
					useSubsets(b, s)
					asks := make([]selector.Request, benchSubsets)
					for i := range asks {
						asks[i] = selector.Request{Service: "user", Key: "k"}
						switch kind {
						case "one":
							asks[i].Where = "version=7.0.0"
						case "turns":
							asks[i].Where = fmt.Sprintf("version=%d.0.0", i)
						}
					}
					ctx := b.Context()
					b.ReportAllocs()
					for i := 0; b.Loop(); i++ {
						p, err := s.PickFor(ctx, asks[i%benchSubsets])
						if err != nil {
							b.Fatal(err)
						}
						p.Done(nil)
					}
				})
			}
		}
	}
}

// BenchmarkApplyWhere is one change of one instance among many while 50 subsets are in use.
func BenchmarkApplyWhere(b *testing.B) {
	const n = 10000
	all := inSubsets(fleet(n))
	for _, subsets := range []int{0, benchSubsets} {
		for _, change := range []string{"update", "leave-join"} {
			b.Run(fmt.Sprintf("change=%s/instances=%d/subsets=%d", change, n, subsets), func(b *testing.B) {
				s, src := open(b, n, selector.Options{})
				src.lists <- events.Snapshot{Service: "user", Entries: all}
				src.lists <- events.Snapshot{Service: "user", Entries: all} // the one before is applied
				entries, without := all, slices.Delete(slices.Clone(all), n/3, n/3+1)
				if subsets > 0 {
					useSubsets(b, s)
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if subsets > 0 && i%100 == 0 {
						b.StopTimer()
						useSubsets(b, s)
						b.StartTimer()
					}
					switch {
					case change == "update":
						entries = slices.Clone(entries)
						in := *entries[i%n].Instance
						in.Weight = 100 + i%7
						entries[i%n].Instance = &in
					case i%2 == 0:
						entries = without
					default:
						entries = all
					}
					src.lists <- events.Snapshot{Service: "user", Entries: entries}
				}
			})
		}
	}
}
