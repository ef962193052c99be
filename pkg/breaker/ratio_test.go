package breaker_test

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// calls makes calls that take no time, gap apart, and returns how many were allowed. Every
// nth of them ends with end.
func calls(b *breaker.Breaker, n int, gap time.Duration, nth int, end error) (allowed int) {
	for i := range n {
		if p, err := b.Allow(); err == nil {
			allowed++
			if i%nth == 0 {
				p.Done(end)
			} else {
				p.Done(nil)
			}
		}
		pass(gap)
	}
	return allowed
}

func TestHalfOfTheCallsOpenIt(t *testing.T) {
	for _, c := range []struct {
		name     string
		settings breaker.Settings
		gap      time.Duration // between calls
		nth      int           // of them fails
		allowed  int           // of 1000 before it opens; 0: it does not open
	}{
		{"every second, the 21st call is the first failure when there are 20", breaker.Settings{}, time.Millisecond, 2, 21},
		{"every third is less than half", breaker.Settings{}, time.Millisecond, 3, 0},
		{"every third is more than 0.3", breaker.Settings{FailureRatio: 0.3}, time.Millisecond, 3, 22},
		{"all, though five in a row come first", breaker.Settings{}, time.Millisecond, 1, 5},
		{"all of ten", breaker.Settings{Failures: 1000, MinCalls: 10, FailureRatio: 1}, time.Millisecond, 1, 10},
		{"more than all is all", breaker.Settings{Failures: 1000, FailureRatio: 50}, time.Millisecond, 1, 20},
		{"fewer than 20 calls in ten seconds", breaker.Settings{}, 600 * time.Millisecond, 2, 0},
		{"a window of a minute", breaker.Settings{Window: time.Minute}, 600 * time.Millisecond, 2, 21},
		{"no ratio", breaker.Settings{FailureRatio: -1}, time.Millisecond, 2, 0},
		{"a window of no length is the shortest", breaker.Settings{Window: 1}, 0, 2, 21},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.settings.OpenFor = time.Hour
				b := breaker.New(key, &c.settings)
				defer b.Close()
				want := c.allowed
				if want == 0 {
					want = 1000
				}
				if got := calls(b, 1000, c.gap, c.nth, errFailure); got != want {
					t.Errorf("allowed %d calls, want %d", got, want)
				}
			})
		})
	}
}

func TestOldFailuresLeaveTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{Failures: 100})
		defer b.Close()
		for range 19 {
			call(t, b, errFailure)
		}
		pass(10 * time.Second)
		call(t, b, nil)
		for range 18 {
			call(t, b, errFailure)
		}
		wantState(t, b, breaker.Closed)
		pass(9*time.Second - 1)
		call(t, b, nil) // the 19th in the window
		wantState(t, b, breaker.Closed)
		call(t, b, errFailure)
		wantState(t, b, breaker.Open)
	})
}

// The successes of a healthy instance are not counted, those after a failure are.
func TestTheRatioIsOfTheCallsSinceTheFirstFailure(t *testing.T) {
	b := breaker.New(key, &breaker.Settings{Failures: 100, MinCalls: 1})
	defer b.Close()
	for range 1000 {
		call(t, b, nil)
	}
	call(t, b, errFailure)
	wantState(t, b, breaker.Open)

	b = breaker.New(key, &breaker.Settings{})
	defer b.Close()
	call(t, b, errFailure)
	for range 1000 {
		call(t, b, nil)
	}
	for range 100 {
		for range 4 {
			call(t, b, errFailure)
		}
		call(t, b, nil)
		call(t, b, nil)
	}
	wantState(t, b, breaker.Closed) // 401 of 1601
}

func TestAWindowDoesNotEndARowOfFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{})
		defer b.Close()
		for range 5 {
			wantState(t, b, breaker.Closed)
			call(t, b, errFailure)
			pass(time.Hour)
		}
		wantState(t, b, breaker.HalfOpen)
	})
}

func TestASuccessEndsARowOfFailuresThatIsOlderThanTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{})
		defer b.Close()
		for range 2 {
			for range 4 {
				call(t, b, errFailure)
			}
			pass(time.Hour)
			call(t, b, nil)
		}
		wantState(t, b, breaker.Closed)
	})
}

func TestAStateBeginsWithAnEmptyWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{Failures: 19, OpenFor: time.Second})
		defer b.Close()
		late := allow(t, b)
		for range 19 {
			call(t, b, errFailure)
		}
		openEnds(t, b)
		call(t, b, nil)
		late.Done(errFailure)
		for range 10 {
			call(t, b, errFailure)
		}
		wantState(t, b, breaker.Closed)
	})
}

func TestSlowCallsCountForTheRatioOnly(t *testing.T) {
	slow := fmt.Errorf("3 s: %w", breaker.ErrSlow)
	b := breaker.New(key, &breaker.Settings{Failures: 3})
	defer b.Close()
	for range 19 {
		call(t, b, slow)
	}
	wantState(t, b, breaker.Closed)
	call(t, b, slow)
	wantState(t, b, breaker.Open)

	b = breaker.New(key, &breaker.Settings{Failures: 3, FailureRatio: -1})
	defer b.Close()
	for range 100 {
		call(t, b, errFailure)
		call(t, b, errFailure)
		call(t, b, slow) // it was an answer
	}
	wantState(t, b, breaker.Closed)
	call(t, b, errFailure)
	call(t, b, errFailure)
	call(t, b, errFailure)
	wantState(t, b, breaker.Open)
}

func TestASlowTrialFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{})
		defer b.Close()
		halfOpen(t, b)
		call(t, b, breaker.ErrSlow)
		wantState(t, b, breaker.Open)
	})
}

func TestExtremeSettingsWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{
			Failures: math.MaxInt, MinCalls: math.MaxInt, Window: math.MaxInt64,
			OpenFor: math.MaxInt64, MaxOpenFor: math.MaxInt64, Trials: math.MaxInt, TrialTimeout: math.MaxInt64,
		})
		defer b.Close()
		for range 100 {
			call(t, b, errFailure)
		}
		wantState(t, b, breaker.Closed)
		call(t, b, errRefused)
		pass(24 * 365 * 100 * time.Hour)
		openEnds(t, b)
		call(t, b, errFailure)
		pass(24 * 365 * 50 * time.Hour)
		wantState(t, b, breaker.Open)
	})
}

func TestNilSettingsAreTheZeroSettings(t *testing.T) {
	b := breaker.New(key, nil)
	defer b.Close()
	for range 5 {
		wantState(t, b, breaker.Closed)
		call(t, b, errFailure)
	}
	wantState(t, b, breaker.Open)
}
