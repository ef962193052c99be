package breaker_test

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

type change struct {
	Key      breaker.Key
	From, To breaker.State
	At       time.Duration
}

func TestOnChangeIsCalledForEveryChangeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []change
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, OnChange: func(k breaker.Key, from, to breaker.State) {
			got = append(got, change{k, from, to, time.Since(start)})
		}})
		defer b.Close()

		call(t, b, errRefused)
		first := b.Opened().Until.Sub(start)
		pass(3 * time.Second) // without a call of State
		call(t, b, errFailure)
		second := b.Opened().Until.Sub(start)
		pass(3 * time.Second)
		call(t, b, nil)

		want := []change{
			{key, breaker.Closed, breaker.Open, 0},
			{key, breaker.Open, breaker.HalfOpen, first},
			{key, breaker.HalfOpen, breaker.Open, 3 * time.Second},
			{key, breaker.Open, breaker.HalfOpen, second},
			{key, breaker.HalfOpen, breaker.Closed, 6 * time.Second},
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// A change that OnChange itself makes is reported after it returns, not inside it.
func TestOnChangeMayUseTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			b      *breaker.Breaker
			told   []breaker.State
			inside bool
		)
		b = breaker.New(key, &breaker.Settings{OpenFor: time.Second, OnChange: func(_ breaker.Key, _, to breaker.State) {
			if inside {
				t.Error("OnChange was called inside OnChange")
			}
			inside = true
			defer func() { inside = false }()
			told = append(told, to)
			if got := b.State(); got != to {
				t.Errorf("told of %v, State is %v", to, got)
			}
			switch {
			case to == breaker.Open:
				wantDenied(t, b, breaker.ErrOpen)
			case to == breaker.HalfOpen && len(told) == 2:
				call(t, b, errFailure) // opens it again
			case to == breaker.HalfOpen:
				call(t, b, nil) // closes it
			}
		}})
		defer b.Close()

		call(t, b, errRefused)
		pass(4 * time.Second)
		want := []breaker.State{breaker.Open, breaker.HalfOpen, breaker.Open, breaker.HalfOpen, breaker.Closed}
		if !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}

func TestAPanicInOnChangeDoesNotSilenceIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, OnChange: func(breaker.Key, breaker.State, breaker.State) {
			told++
			if told == 1 {
				panic("a bug of the user's")
			}
		}})
		defer b.Close()
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic did not reach the caller")
				}
			}()
			call(t, b, errRefused)
		}()
		openEnds(t, b)
		call(t, b, nil)
		wantState(t, b, breaker.Closed)
		if told != 3 {
			t.Errorf("told of %d changes, want 3", told)
		}
	})
}

// While OnChange is slow, other goroutines go on; the changes that they make are reported
// later by the goroutine that is in OnChange.
func TestASlowOnChangeDelaysNoCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []breaker.State
		release := make(chan struct{})
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, OnChange: func(_ breaker.Key, _, to breaker.State) {
			told = append(told, to)
			if len(told) == 1 {
				<-release
			}
		}})
		var first sync.WaitGroup
		p := allow(t, b)
		first.Go(func() { p.Done(errRefused) })
		synctest.Wait()
		openEnds(t, b)
		call(t, b, nil)
		wantState(t, b, breaker.Closed)

		close(release)
		first.Wait()
		want := []breaker.State{breaker.Open, breaker.HalfOpen, breaker.Closed}
		if !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		b.Close()
	})
}

func TestNothingHappensAfterClose(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, b *breaker.Breaker)
		state   breaker.State
		denied  error
	}{
		{"healthy", func(*testing.T, *breaker.Breaker) {}, breaker.Closed, nil},
		{"failing", func(t *testing.T, b *breaker.Breaker) { call(t, b, errFailure) }, breaker.Closed, nil},
		{"open", func(t *testing.T, b *breaker.Breaker) { call(t, b, errRefused) }, breaker.Open, breaker.ErrOpen},
		{"half-open", func(t *testing.T, b *breaker.Breaker) { halfOpen(t, b) }, breaker.HalfOpen, breaker.ErrTrialsTaken},
		{"on trial", func(t *testing.T, b *breaker.Breaker) { halfOpen(t, b); allow(t, b) }, breaker.HalfOpen, breaker.ErrTrialsTaken},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var closed atomic.Bool
				b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, OnChange: func(_ breaker.Key, from, to breaker.State) {
					if closed.Load() {
						t.Errorf("told of %v to %v after Close", from, to)
					}
				}})
				early := allow(t, b)
				c.prepare(t, b)
				start := time.Now()
				b.Close()
				closed.Store(true)
				b.Close()
				if took := time.Since(start); took != 0 {
					t.Errorf("Close took %v: it waited for a timer", took)
				}

				early.Done(errRefused)
				for range 10 {
					p, err := b.Allow()
					if err != c.denied { //nolint:errorlint // Allow promises the error as it is.
						t.Fatalf("Allow: got %v, want %v", err, c.denied)
					}
					p.Done(errRefused)
					p, _ = b.Allow()
					p.Done(nil)
					pass(20 * time.Second)
				}
				wantState(t, b, c.state)
			})
		})
	}
}

func TestATrialThatEndsAfterCloseIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second})
		halfOpen(t, b)
		trial := allow(t, b)
		b.Close()
		trial.Done(nil)
		wantState(t, b, breaker.HalfOpen)
	})
}

func TestCloseWaitsForOnChangeOnACallersGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Bool
		b := breaker.New(key, &breaker.Settings{OnChange: func(breaker.Key, breaker.State, breaker.State) {
			time.Sleep(time.Second)
			told.Store(true)
		}})
		var caller sync.WaitGroup
		p := allow(t, b)
		caller.Go(func() { p.Done(errRefused) })
		synctest.Wait()
		b.Close()
		if !told.Load() {
			t.Error("Close did not wait for OnChange")
		}
		caller.Wait()
	})
}

func TestCloseWaitsForOnChangeOnTheTimersGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := 0
		release := make(chan struct{})
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, OnChange: func(_ breaker.Key, _, to breaker.State) {
			told++
			if to == breaker.HalfOpen {
				<-release
			}
		}})
		call(t, b, errRefused)
		openEnds(t, b) // the timer's goroutine is in OnChange
		call(t, b, errFailure)

		var closing sync.WaitGroup
		var closed atomic.Int32
		for range 2 {
			closing.Go(func() { b.Close(); closed.Add(1) })
		}
		synctest.Wait()
		if closed.Load() != 0 {
			t.Error("Close did not wait for OnChange")
		}
		close(release)
		closing.Wait()
		pass(time.Minute)
		if told != 2 {
			t.Errorf("told of %d changes, want 2: the third was pending when Close was called", told)
		}
	})
}

func TestSettingsChangeInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(breaker.Key{}, &breaker.Settings{Failures: 5, OpenFor: time.Second, MaxOpenFor: time.Second})
		defer b.Close()
		fail := func(n int) {
			for range n {
				pass, err := b.Allow()
				if err != nil {
					t.Fatal(err)
				}
				pass.Done(errors.New("failed"))
			}
		}
		fail(2)
		b.Set(&breaker.Settings{Failures: 3, OpenFor: time.Minute, Window: time.Second}) // the row goes on
		if fail(1); b.State() != breaker.Open {
			t.Fatalf("%v after three failures in a row", b.State())
		}
		until := b.Opened().Until
		b.Set(&breaker.Settings{Failures: 2, OpenFor: time.Second, FailureRatio: -1})
		if got := b.Opened().Until; got != until || b.State() != breaker.Open {
			t.Errorf("it is %v until %v, and was open until %v", b.State(), got, until)
		}
		time.Sleep(2 * time.Minute)
		pass, err := b.Allow()
		if err != nil || b.State() != breaker.HalfOpen {
			t.Fatalf("%v, %v", b.State(), err)
		}
		pass.Done(nil)
		fail(1)
		ok, _ := b.Allow()
		ok.Done(nil)
		if fail(1); b.State() != breaker.Closed {
			t.Errorf("%v: a success ends a row, and there is no ratio", b.State())
		}
		if fail(1); b.State() != breaker.Open {
			t.Errorf("%v after two failures in a row", b.State())
		}
		time.Sleep(2 * time.Second)
		pass, _ = b.Allow()
		b.Set(&breaker.Settings{FailureRatio: 0.5, MinCalls: 4, Failures: 100, Window: time.Minute})
		pass.Done(nil) // a trial of before the change counts
		if b.State() != breaker.Closed {
			t.Fatalf("%v", b.State())
		}
		fail(1)
		for range 2 {
			p, _ := b.Allow()
			p.Done(nil)
		}
		if fail(1); b.State() != breaker.Open {
			t.Errorf("%v after half of four calls failed", b.State())
		}
	})
}
