package breaker_test

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// wantOpenFor fails if b is not open for d, give or take a fifth.
func wantOpenFor(t *testing.T, b *breaker.Breaker, d time.Duration) {
	t.Helper()
	wantState(t, b, breaker.Open)
	o := b.Opened()
	if got := o.Until.Sub(o.At); got < d-d/5 || got > d+d/5 {
		t.Errorf("open for %v, want %v ± 20 %%", got, d)
	}
}

// All callers of an instance see it fail at once. Their trials must not come at once.
func TestTheTrialsOfManyCallersAreSpread(t *testing.T) {
	const callers = 100
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		for range callers {
			b := breaker.New(key, &breaker.Settings{OnChange: func(_ breaker.Key, _, to breaker.State) {
				mu.Lock()
				defer mu.Unlock()
				if to == breaker.HalfOpen {
					at = append(at, time.Since(start))
				}
			}})
			defer b.Close()
			call(t, b, errRefused)
		}
		pass(6 * time.Second)
		if len(at) != callers {
			t.Fatalf("%d of %d are half-open after 6 s", len(at), callers)
		}
		slices.Sort(at)
		if at[0] < 4*time.Second {
			t.Errorf("one is half-open after %v", at[0])
		}
		if spread := at[callers-1] - at[0]; spread < 1500*time.Millisecond {
			t.Errorf("all are half-open within %v", spread)
		}
		most := 0
		for i, from := range at {
			n, _ := slices.BinarySearch(at[i:], from+100*time.Millisecond)
			most = max(most, n)
		}
		if most > 25 { // 5 on average
			t.Errorf("%d of %d are half-open within 100 ms", most, callers)
		}
		t.Logf("from %v to %v, at most %d in 100 ms", at[0], at[callers-1], most)
	})
}

func TestEachFailedTrialDoublesTheTimeThatItIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{})
		defer b.Close()
		for range 2 {
			call(t, b, errRefused)
			for _, d := range []time.Duration{5, 10, 20, 40, 60, 60, 60} {
				wantOpenFor(t, b, d*time.Second)
				openEnds(t, b)
				call(t, b, errFailure)
			}
			openEnds(t, b)
			call(t, b, nil) // it has closed, and all begins anew
		}
	})
}

func TestATrialWithoutAnOutcomeDoesNotDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{TrialTimeout: time.Second})
		defer b.Close()
		halfOpen(t, b)
		call(t, b, errCanceled)
		allow(t, b)
		pass(time.Second)
		call(t, b, errFailure)
		wantOpenFor(t, b, 10*time.Second)
	})
}

func TestMaxOpenForIsNeverLessThanOpenFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Hour})
		defer b.Close()
		halfOpen(t, b)
		call(t, b, errFailure)
		wantOpenFor(t, b, time.Hour)
	})
}

func TestAnInstanceIsLeftAloneForAsLongAsItAsked(t *testing.T) {
	for _, c := range []struct{ after, want time.Duration }{
		{17 * time.Second, 17 * time.Second},
		{time.Millisecond, time.Millisecond},
		{time.Hour, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := breaker.New(key, &breaker.Settings{})
			defer b.Close()
			late := allow(t, b)
			allow(t, b).Reject(c.after)
			wantDenied(t, b, breaker.ErrOpen)
			late.Reject(time.Hour) // of the state before
			pass(c.want - 1)
			wantState(t, b, breaker.Open)
			pass(1)
			wantState(t, b, breaker.HalfOpen)
			call(t, b, nil)
			wantState(t, b, breaker.Closed)
		})
	}
}

func TestARejectionIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{Failures: 2})
		defer b.Close()
		call(t, b, errFailure)
		allow(t, b).Reject(time.Minute)
		openEnds(t, b)
		allow(t, b).Reject(time.Minute)
		openEnds(t, b)
		call(t, b, errFailure) // the first failed trial
		wantOpenFor(t, b, 5*time.Second)
		openEnds(t, b)
		allow(t, b).Reject(time.Minute)
		openEnds(t, b)
		call(t, b, errFailure) // the second
		wantOpenFor(t, b, 10*time.Second)
	})
}

func TestARejectionWithoutATimeDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{Failures: 2})
		defer b.Close()
		for range 10 {
			allow(t, b).Reject(0)
			allow(t, b).Reject(-time.Second)
		}
		wantState(t, b, breaker.Closed)
		call(t, b, errFailure)
		allow(t, b).Reject(0) // nor is it a success
		call(t, b, errFailure)
		openEnds(t, b)
		for range 10 {
			allow(t, b).Reject(0) // gives the slot of the trial back
		}
		wantState(t, b, breaker.HalfOpen)
	})
}
