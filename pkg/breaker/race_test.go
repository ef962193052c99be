package breaker_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// Many callers call through a half-open breaker; each cancels, or never reports, and tries
// again. None succeeds or fails, so it stays half-open.
func TestNeverMoreTrialsAtOnceThanAllowed(t *testing.T) {
	const callers, rounds, trials = 16, 500, 3
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, Trials: trials, TrialTimeout: time.Minute})
		defer b.Close()
		halfOpen(t, b)

		var running, allowed atomic.Int32
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				for range rounds {
					p, err := b.Allow()
					if err != nil {
						continue
					}
					allowed.Add(1)
					if n := running.Add(1); n > trials {
						t.Errorf("%d trials at once, want %d at most", n, trials)
					}
					running.Add(-1)
					p.Done(errCanceled)
				}
			})
		}
		all.Wait()
		wantState(t, b, breaker.HalfOpen)
		if allowed.Load() < trials {
			t.Errorf("%d trials were allowed", allowed.Load())
		}

		// And exactly that many when none is reported.
		allowed.Store(0)
		passes := make(chan breaker.Pass, callers)
		for range callers {
			all.Go(func() {
				if p, err := b.Allow(); err == nil {
					allowed.Add(1)
					passes <- p
				}
			})
		}
		all.Wait()
		if allowed.Load() != trials {
			t.Errorf("%d trials are running, want %d", allowed.Load(), trials)
		}
		close(passes)
		for p := range passes {
			all.Go(func() { p.Done(nil) })
		}
		all.Wait()
		wantState(t, b, breaker.Closed)
	})
}

// Callers succeed, fail, cancel, never report and report late, in real time: the changes
// that OnChange gets are one chain, and in the end successes close the breaker.
func TestManyCallersAtOnce(t *testing.T) {
	const callers, rounds = 8, 3000
	var (
		telling atomic.Bool
		told    = breaker.Closed // only OnChange touches it until Close
		last    atomic.Int64     // as told
		changes int
	)
	b := breaker.New(key, &breaker.Settings{
		Failures: 3, OpenFor: 20 * time.Microsecond, MaxOpenFor: time.Millisecond, MinCalls: 5, Window: time.Millisecond, Trials: 2, TrialTimeout: 50 * time.Microsecond,
		OnChange: func(_ breaker.Key, from, to breaker.State) {
			if !telling.CompareAndSwap(false, true) {
				t.Error("OnChange was called twice at once")
			}
			defer telling.Store(false)
			if from != told || from == to {
				t.Errorf("told of %v to %v after it was %v", from, to, told)
			}
			told = to
			last.Store(int64(to))
			changes++
		},
	})
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			var late []breaker.Pass
			for range rounds {
				p, err := b.Allow()
				if err != nil {
					time.Sleep(time.Microsecond) // as a caller does that tries another instance
					continue
				}
				switch n := r.IntN(22); {
				case n < 10:
					p.Done(nil)
				case n < 15:
					p.Done(errFailure)
				case n == 15:
					p.Done(errRefused)
				case n == 16:
					p.Done(errCanceled)
				case n == 17: // never reported
				case n == 20:
					p.Done(breaker.ErrSlow)
				case n == 21:
					p.Reject(30 * time.Microsecond)
				default:
					late = append(late, p)
				}
				if len(late) > 10 {
					late[0].Done(errFailure)
					late = late[1:]
				}
			}
		})
	}
	all.Wait()

	deadline := time.Now().Add(10 * time.Second)
	for b.State() != breaker.Closed && time.Now().Before(deadline) {
		if p, err := b.Allow(); err == nil {
			p.Done(nil)
		}
	}
	wantState(t, b, breaker.Closed)
	for last.Load() != int64(breaker.Closed) && time.Now().Before(deadline) { // another goroutine tells; Close would prevent it
		runtime.Gosched()
	}
	b.Close()
	if told != breaker.Closed {
		t.Errorf("it is closed, but the last that was told is %v", told)
	}
	if changes < 10 {
		t.Errorf("only %d changes: the test shows nothing", changes)
	}
	t.Log(changes, "changes")
}
