package breaker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

func TestABreakerReturnsWhenAndWhyItOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := breaker.New(key, &breaker.Settings{Failures: 2, MinCalls: 4, OpenFor: time.Second})
		defer b.Close()
		const never breaker.Reason = 0
		want := func(when string, at time.Duration, why breaker.Reason) {
			t.Helper()
			got := b.Opened()
			if why == never {
				if got != (breaker.Opening{}) {
					t.Errorf("%s: %+v, want none", when, got)
				}
				return
			}
			if got.At.Sub(start) != at || got.Why != why {
				t.Errorf("%s: opened at %v by %v, want %v, %v", when, got.At.Sub(start), got.Why, at, why)
			}
		}
		want("before any call", 0, never)
		call(t, b, errFailure)
		want("after one failure of two", 0, never)
		pass(time.Minute)
		call(t, b, errFailure)
		want("after two failures", time.Minute, breaker.ByFailures)
		openEnds(t, b)
		want("half-open", 0, never)
		call(t, b, errRefused)
		want("after a trial that was refused", time.Since(start), breaker.ByRefusal)
		openEnds(t, b)
		call(t, b, errFailure)
		want("after a trial that failed", time.Since(start), breaker.ByFailures)
		openEnds(t, b)
		allow(t, b).Reject(time.Second)
		want("after a trial that was rejected", time.Since(start), breaker.ByRequest)
		openEnds(t, b)
		call(t, b, nil)
		want("closed again", 0, never)
		for range 4 {
			call(t, b, breaker.ErrSlow)
		}
		want("after slow calls", time.Since(start), breaker.ByRatio)
		openEnds(t, b)
		call(t, b, breaker.ErrSlow)
		want("after a trial that was slow", time.Since(start), breaker.ByFailures)
	})
}
