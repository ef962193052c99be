package selector_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// outcomes are those of a circle in Stats, by name, without those that are 0.
func (w *world) outcomes(circle int) map[string]uint64 {
	w.t.Helper()
	all := make(map[string]uint64)
	c := w.circles()[circle]
	for o, n := range c.Outcomes {
		if n > 0 {
			all[selector.Outcome(o).String()] = n
		}
	}
	if c.BrokenAnswers > 0 {
		all["broken"] = c.BrokenAnswers
	}
	return all
}

func TestStatsCountHowCallsEnd(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, patient(selector.Options{Strategy: strategy}), instance("a", home), instance("far", nextDoor))
				want := map[string]uint64{}
				for name, err := range map[string]error{
					"success": nil, "answer": selector.Permanent(errCall), "backpressure": selector.Overloaded(errCall, 0),
					"fault": errCall, "canceled": context.Canceled, "local": syscall.EMFILE,
				} {
					for range 3 {
						p := w.pick()
						time.Sleep(time.Millisecond)
						p.Done(err)
						p.Done(errCall)
						want[name]++
					}
				}
				open, answered := w.pick(), w.pick()
				answered.Answered(time.Millisecond) // a success from now on
				want["success"]++
				if got := w.outcomes(0); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%v, want %v", got, want)
				}
				answered.Done(errCall)
				open.DoneAfter(nil, time.Millisecond)
				want["success"]++
				want["broken"]++
				p := w.pick()
				p.Answered(time.Millisecond)
				p.Done(context.Canceled)
				want["success"]++
				if got := w.outcomes(0); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%v, want %v", got, want)
				}
				if got := w.outcomes(1); len(got) > 0 {
					t.Errorf("of the next circle: %v", got)
				}
				// What was counted outlives the instance.
				w.list(instance("b", home))
				if got := w.outcomes(0); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("after it left: %v, want %v", got, want)
				}
			})
		})
	}
}

func TestStatsSayHowLongSuccessesTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home))
		for range 100 {
			p := w.pick()
			time.Sleep(40 * time.Millisecond)
			p.Done(nil)
		}
		check := func(when string) {
			t.Helper()
			c := w.circles()[0]
			if mean := c.TimedTotal / time.Duration(max(1, c.TimedCalls)); c.TimedCalls < 100/8 || c.TimedCalls > 100 || mean != 40*time.Millisecond {
				t.Errorf("%s: %d calls took %v in all", when, c.TimedCalls, c.TimedTotal)
			}
			i := slices.Index(selector.DurationBounds(), 50*time.Millisecond)
			if d := c.Durations[i]; d.Calls != c.TimedCalls || d.Total != c.TimedTotal {
				t.Errorf("%s: %d calls of 25 to 50 ms took %v", when, d.Calls, d.Total)
			}
		}
		check("once")
		check("twice")
		w.list(instance("b", home))
		check("after the instance left")
	})
}

func TestStatsCountWhatRetriesDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, patient(selector.Options{}), several(5)...)
		failing := func(context.Context, *events.Instance) error { return errCall }
		for range 20 { // calls, of which there are more than the budget for retries allows
			if err := w.Do(t.Context(), "user", failing); !errors.Is(err, errCall) {
				t.Fatal(err)
			}
		}
		s := w.Stats().Services[0]
		if s.Retries < 10 || s.Retries > 20 || s.RefusedRetries < 10 || s.RefusedRetries > 20 {
			t.Errorf("%d retries, %d refused", s.Retries, s.RefusedRetries)
		}
		if got := w.outcomes(0)["fault"]; got != 20+s.Retries {
			t.Errorf("%d faults, want those of 20 calls and %d retries", got, s.Retries)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		slow := true
		if err := w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error {
			if slow {
				slow = false
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if s := w.Stats().Services[0]; s.SlowAttempts != 1 || s.Retries != 1 || s.RefusedRetries != 0 {
			t.Errorf("%d slow, %d retries, %d refused, want 1, 1, 0", s.SlowAttempts, s.Retries, s.RefusedRetries)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Retry: selector.Retry{Budget: -1}}, several(2)...)
		if err := w.Do(t.Context(), "user", func(context.Context, *events.Instance) error { return errCall }); err == nil {
			t.Fatal("no error")
		}
		if s := w.Stats().Services[0]; s.Retries != 0 || s.RefusedRetries != 0 {
			t.Errorf("%d retries, %d refused, though there are never any", s.Retries, s.RefusedRetries)
		}
	})
}

func TestStatsCountForgottenCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home))
		for range 3 {
			w.pick()
		}
		w.picks(5)
		time.Sleep(21 * time.Minute)
		s := w.Stats().Services[0]
		if got := w.outcomes(0); s.ForgottenCalls != 3 || got["success"] != 5 || len(got) != 1 {
			t.Errorf("%d forgotten, outcomes %v, want 3, and 5 successes", s.ForgottenCalls, got)
		}
	})
}

// Calls end while stats are read: what has been shown never falls.
func TestStatsNeverFall(t *testing.T) {
	s := openAlways(t, selector.Options{}, instance("a", home))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if p, err := s.Pick(context.Background(), "user"); err == nil {
				if i%2 == 0 {
					p.Done(selector.Permanent(errCall))
				} else {
					p.Done(nil)
				}
			}
		}
	}()
	var before [6]uint64
	for range 2000 {
		services := s.Stats().Services
		if len(services) == 0 {
			continue
		}
		now := services[0].Circles[0].Outcomes
		for o := range now {
			if now[o] < before[o] {
				t.Fatalf("%v, before that %v", now, before)
			}
		}
		before = now
	}
	close(stop)
	<-done
}
