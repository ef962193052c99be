package selector_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestTheBudgetBoundsRetriesToAShareOfCalls(t *testing.T) {
	for _, tt := range []struct {
		name   string
		budget float64
		least  int // of retries
		most   int
	}{
		{"a fifth and ten a second", 0, 280, 330},
		{"a half and ten a second", 0.5, 570, 630},
		{"none", -1, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := selector.Options{Retry: selector.Retry{Budget: tt.budget, Backoff: time.Nanosecond}}
				o.Breaker.Failures = 1 << 30
				w := start(t, o, several(4)...)
				attempts, refused := 0, 0
				for range 1000 { // in ten seconds
					err := w.Do(t.Context(), "user", func(context.Context, *events.Instance) error {
						attempts++
						return errCall
					})
					if !errors.Is(err, errCall) {
						t.Fatal(err)
					}
					if errors.Is(err, selector.ErrBudget) {
						refused++
					}
					time.Sleep(10 * time.Millisecond)
				}
				if retries := attempts - 1000; retries < tt.least || retries > tt.most {
					t.Errorf("%d retries of 1000 calls, want %d to %d", retries, tt.least, tt.most)
				}
				if refused < 500 {
					t.Errorf("%d calls were not retried because of the budget", refused)
				}
			})
		})
	}
}

func TestTheRareCallerMayAlwaysRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(4)...)
		for range 100 {
			if called, err := w.do(selector.Request{}, errCall, errCall); err != nil || len(called) != 3 {
				t.Fatalf("called %v, error %v", called, err)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// A time without calls saves up no retries for later.
func TestRetriesAreNotSavedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := selector.Options{Retry: selector.Retry{Backoff: time.Nanosecond}}
		o.Breaker.Failures = 1 << 30
		w := start(t, o, several(4)...)
		attempts := 0
		fail := func(context.Context, *events.Instance) error {
			attempts++
			return errCall
		}
		for range 2 {
			time.Sleep(time.Hour)
			for range 500 { // calls at once
				_ = w.Do(t.Context(), "user", fail)
			}
		}
		if retries := attempts - 1000; retries < 200 || retries > 240 {
			t.Errorf("%d retries of 1000 calls, want a fifth and some 20", retries)
		}
		// Successful calls do, up to a limit.
		for range 5000 {
			_ = w.Do(t.Context(), "user", func(context.Context, *events.Instance) error { return nil })
		}
		attempts = 0
		for range 100 {
			_ = w.Do(t.Context(), "user", fail)
		}
		if retries := attempts - 100; retries < 115 || retries > 130 {
			t.Errorf("%d retries of 100 calls after 5000 that went well, want about 120", retries)
		}
	})
}
