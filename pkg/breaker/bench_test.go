package breaker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// BenchmarkAllowDone is one successful call of a healthy instance, next to
// gobreaker alone, and what it costs when every second call fails.
func BenchmarkAllowDone(b *testing.B) {
	key := breaker.Key{Service: "user", Instance: "user-1", Incarnation: "a"}
	failure := errors.New("500")

	b.Run("closed", func(b *testing.B) {
		br := breaker.New(key, &breaker.Settings{})
		b.ReportAllocs()
		for b.Loop() {
			pass, err := br.Allow()
			if err != nil {
				b.Fatal(err)
			}
			pass.Done(nil)
		}
	})
	b.Run("gobreaker", func(b *testing.B) {
		plain := gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{})
		b.ReportAllocs()
		for b.Loop() {
			done, err := plain.Allow()
			if err != nil {
				b.Fatal(err)
			}
			done(nil)
		}
	})
	b.Run("failing", func(b *testing.B) {
		br := breaker.New(key, &breaker.Settings{FailureRatio: -1})
		b.ReportAllocs()
		var end error
		for b.Loop() {
			pass, err := br.Allow()
			if err != nil {
				b.Fatal(err)
			}
			pass.Done(end)
			if end == nil {
				end = failure
			} else {
				end = nil
			}
		}
	})
	// A call failed lately, so that successes are counted.
	watched := func(b *testing.B) *breaker.Breaker {
		br := breaker.New(key, &breaker.Settings{Window: 1 << 60})
		pass, _ := br.Allow()
		pass.Done(failure)
		b.ReportAllocs()
		return br
	}
	b.Run("watched", func(b *testing.B) {
		br := watched(b)
		for b.Loop() {
			pass, err := br.Allow()
			if err != nil {
				b.Fatal(err)
			}
			pass.Done(nil)
		}
	})
	b.Run("closed-again", func(b *testing.B) { // nothing is counted after a window without a failure
		br := breaker.New(key, &breaker.Settings{Window: 1})
		for _, end := range []error{failure, nil} {
			time.Sleep(time.Millisecond) // longer than the window
			pass, _ := br.Allow()
			pass.Done(end)
		}
		b.ReportAllocs()
		for b.Loop() {
			pass, err := br.Allow()
			if err != nil {
				b.Fatal(err)
			}
			pass.Done(nil)
		}
	})
	b.Run("watched-parallel", func(b *testing.B) {
		br := watched(b)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				pass, err := br.Allow()
				if err != nil {
					b.Error(err)
					return
				}
				pass.Done(nil)
			}
		})
	})
	b.Run("open", func(b *testing.B) {
		br := breaker.New(key, &breaker.Settings{Failures: 1, OpenFor: 1 << 60})
		defer br.Close()
		pass, _ := br.Allow()
		pass.Done(failure)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := br.Allow(); err == nil {
				b.Fatal("allowed")
			}
		}
	})
	b.Run("closed-parallel", func(b *testing.B) {
		br := breaker.New(key, &breaker.Settings{})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				pass, err := br.Allow()
				if err != nil {
					b.Error(err)
					return
				}
				pass.Done(nil)
			}
		})
	})
	b.Run("gobreaker-parallel", func(b *testing.B) {
		plain := gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				done, err := plain.Allow()
				if err != nil {
					b.Error(err)
					return
				}
				done(nil)
			}
		})
	})
}

// BenchmarkNew shows what a healthy instance costs in memory.
func BenchmarkNew(b *testing.B) {
	key := breaker.Key{Service: "user", Instance: "user-1", Incarnation: "a"}
	b.ReportAllocs()
	kept := make([]*breaker.Breaker, 1024)
	settings := &breaker.Settings{}
	for i := 0; b.Loop(); i++ {
		kept[i%len(kept)] = breaker.New(key, settings)
	}
}
