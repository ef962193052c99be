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
		b := breaker.New(key, breaker.Settings{Failures: 2, OpenFor: time.Second})
		defer b.Close()
		want := func(when string, at time.Duration, refused bool) {
			t.Helper()
			got, why := b.Opened()
			if at < 0 && got.IsZero() && !why {
				return
			}
			if at < 0 || got.Sub(start) != at || why != refused {
				t.Errorf("%s: opened at %v, refused %v, want %v, %v", when, got.Sub(start), why, at, refused)
			}
		}
		want("before any call", -1, false)
		call(t, b, errFailure)
		want("after one failure of two", -1, false)
		pass(time.Minute)
		call(t, b, errFailure)
		want("after two failures", time.Minute, false)
		pass(2 * time.Second)
		want("half-open", -1, false)
		call(t, b, errRefused)
		want("after a trial that was refused", time.Minute+2*time.Second, true)
		pass(2 * time.Second)
		call(t, b, errFailure)
		want("after a trial that failed", time.Minute+4*time.Second, false)
		pass(2 * time.Second)
		call(t, b, nil)
		want("closed again", -1, false)
	})
}
