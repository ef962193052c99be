package selector_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// same reports whether err is want itself, not wrapped.
func same(err, want error) bool { return err == want } //nolint:errorlint // that is the point

// do calls until an answer is nil, and returns the called instances in order.
func (w *world) do(r selector.Request, answers ...error) (called []string, err error) {
	w.t.Helper()
	r.Service = "user"
	err = w.DoFor(w.t.Context(), r, func(_ context.Context, p *selector.Pick) error {
		called = append(called, p.ID)
		if len(called) > len(answers) {
			return nil
		}
		return answers[len(called)-1]
	})
	for _, c := range w.explain().Instances {
		if c.InFlight != 0 {
			w.t.Errorf("%s has %d calls in flight after all have ended", c.ID, c.InFlight)
		}
	}
	return called, err
}

func TestDoCallsTheNearestOnceWhenThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("here", home), instance("door", nextDoor))
		err := w.Do(t.Context(), "user", func(_ context.Context, in *events.Instance) error {
			if in.ID != "here" {
				t.Errorf("called %s", in.ID)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if c := w.candidate("here"); c.Picks != 1 || c.InFlight != 0 {
			t.Errorf("%d picks, %d in flight, want 1, 0", c.Picks, c.InFlight)
		}
	})
}

func TestDoTriesOthersAndTheNextCircleAfterTwo(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := selector.Options{Strategy: strategy, Retry: selector.Retry{Attempts: 5}}
				o.Breaker.Failures = 1000 // they stay closed
				w := start(t, o, append(several(4), instance("door", nextDoor), instance("far", farAway))...)
				for range 20 {
					w.list(append(several(4), instance("door", nextDoor), instance("far", farAway))...)
					called, err := w.do(selector.Request{}, errCall, errCall, errCall, errCall)
					if err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(called[2:4], []string{"door", "far"}) {
						t.Fatalf("called %v, want two of the zone, then door, then far", called)
					}
					slices.Sort(called)
					if len(slices.Compact(called)) != 5 {
						t.Fatalf("called %v, want five different ones", called)
					}
					time.Sleep(10 * time.Second) // refills the budget
				}
			})
		})
	}
}

func TestTheThirdAttemptGoesOnFromTheCircleThatFailed(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []events.Entry
		want    []string // from the third attempt on
	}{
		{"the next one", append(several(4), instance("door", nextDoor), instance("far", farAway)), []string{"door", "far"}},
		{
			"the last one, when the first is empty",
			[]events.Entry{instance("a", nextDoor), instance("b", nextDoor), instance("c", nextDoor), instance("far", farAway)},
			[]string{"far"},
		},
		{"the first again, when there is no other", several(4), nil},
		{
			"the nearest of what is less good",
			append(several(2), instance("far", farAway, suspect), instance("door", nextDoor, suspect)),
			[]string{"door", "far"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{}, tt.entries...)
				called, err := w.do(selector.Request{}, errCall, errCall, errCall)
				if err != nil || len(called) != 4 || !slices.Equal(called[2:2+len(tt.want)], tt.want) {
					t.Errorf("called %v, error %v, want %v from the third on", called, err, tt.want)
				}
			})
		})
	}
}

func TestDoGivesUpWithTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, last := errors.New("first"), errors.New("last")
		w := start(t, selector.Options{}, several(8)...)
		called, err := w.do(selector.Request{}, first, first, first, last)
		if len(called) != 4 || !errors.Is(err, last) || errors.Is(err, first) {
			t.Errorf("called %v, error %v, want four and %v", called, err, last)
		}
		// All instances were tried before the attempts were used up.
		w.list(several(2)...)
		called, err = w.do(selector.Request{}, first, last)
		if len(called) != 2 || !errors.Is(err, last) || errors.Is(err, first) {
			t.Errorf("called %v, error %v, want two and %v", called, err, last)
		}
		// Avoid holds for all attempts.
		avoid := []string{"i0"}
		called, err = w.do(selector.Request{Avoid: avoid}, last)
		if !slices.Equal(called, []string{"i1"}) || !errors.Is(err, last) || errors.Is(err, first) || len(avoid) != 1 {
			t.Errorf("called %v, error %v, want i1 and %v", called, err, last)
		}
	})
}

func TestErrorsOfDoNameTheLastInstanceAndTheAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home), instance("b", nextDoor))
		_, err := w.do(selector.Request{}, errCall, errCall)
		e, ok := errors.AsType[*selector.CallError](err)
		if !ok || *e != (selector.CallError{Service: "user", Attempts: 2, Instance: "b", Circle: "region", Err: errCall}) {
			t.Fatalf("error %#v", err)
		}
		if want := "user: 2 attempts, last at b (region): " + errCall.Error(); err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}
		_, err = w.do(selector.Request{NonIdempotent: true}, errCall)
		if want := "user: 1 attempt, at a (zone): " + errCall.Error(); err.Error() != want || !errors.Is(err, errCall) {
			t.Errorf("error %q, want %q", err, want)
		}
		if e := (&selector.CallError{Service: "user", Err: os.ErrDeadlineExceeded}); e.Error() != "user: i/o timeout" || !e.Timeout() {
			t.Errorf("%v, timeout %v", e, e.Timeout())
		}
	})
}

func TestDoRetriesOnlyWhatIsSafe(t *testing.T) {
	reset := &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
	timeout := &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}
	for _, tt := range []struct {
		name       string
		err        error
		idempotent bool // retried when the call is idempotent
		other      bool // and when it is not
	}{
		{"an error of unknown kind", errCall, true, false},
		{"a lost connection", reset, true, false},
		{"refused", errRefused, true, true},
		{"refused, wrapped", fmt.Errorf("get: %w", errRefused), true, true},
		{"no connection in time", timeout, true, true},
		{"not sent", selector.NotSent(errCall), true, true},
		{"not sent, wrapped", fmt.Errorf("get: %w", selector.NotSent(errCall)), true, true},
		{"a deadline of one attempt", context.DeadlineExceeded, true, false},
		{"permanent", selector.Permanent(errCall), false, false},
		{"permanent, wrapped", fmt.Errorf("get: %w", selector.Permanent(errCall)), false, false},
		{"permanent, joined", errors.Join(errCall, selector.Permanent(errCall)), false, false},
		{"permanent and not sent", selector.Permanent(selector.NotSent(errCall)), false, false},
		{"not sent and permanent", selector.NotSent(selector.Permanent(errCall)), false, false},
		{"cancelled", context.Canceled, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, nonIdempotent := range []bool{false, true} {
					w := start(t, selector.Options{}, several(3)...)
					want := 1
					if tt.other || tt.idempotent && !nonIdempotent {
						want = 2
					}
					called, err := w.do(selector.Request{NonIdempotent: nonIdempotent}, tt.err)
					if len(called) != want {
						t.Errorf("non-idempotent %v: %d attempts, want %d", nonIdempotent, len(called), want)
					}
					if want == 1 && !errors.Is(err, errCall) && !errors.Is(err, tt.err) || want == 2 && err != nil {
						t.Errorf("non-idempotent %v: error %v", nonIdempotent, err)
					}
				}
			})
		})
	}
}

func TestMarkingNilReturnsNil(t *testing.T) {
	if selector.Permanent(nil) != nil || selector.NotSent(nil) != nil {
		t.Error("a mark made an error of nil")
	}
	if !selector.Sent(nil) || !selector.Sent(errCall) || !selector.Sent(selector.Permanent(errCall)) {
		t.Error("not sent, want sent")
	}
	if selector.Sent(errRefused) || selector.Sent(fmt.Errorf("connect: %w", syscall.ECONNREFUSED)) || selector.Sent(selector.Permanent(selector.NotSent(errCall))) {
		t.Error("sent, want not sent")
	}
	for _, err := range []error{selector.Permanent(errCall), selector.NotSent(errCall)} {
		if err.Error() != errCall.Error() || !errors.Is(err, errCall) {
			t.Errorf("%v hides what it marks", err)
		}
	}
}

func TestDoReturnsAPermanentErrorAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		if _, err := w.do(selector.Request{}, selector.Permanent(errCall)); !same(err, errCall) {
			t.Errorf("error %#v, want the one that was marked", err)
		}
		for range 10 {
			if _, err := w.do(selector.Request{}, selector.Permanent(errCall)); !same(err, errCall) {
				t.Error(err)
			}
		}
		for _, c := range w.explain().Instances {
			if c.Breaker != "closed" {
				t.Errorf("%s: breaker %s, though answers are no failures", c.ID, c.Breaker)
			}
		}
	})
}

func TestDoWaitsBetweenAttemptsLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const backoff = 100 * time.Millisecond
		longest := make([]time.Duration, 9)
		for range 60 {
			w := start(t, selector.Options{Retry: selector.Retry{Attempts: 10, Backoff: backoff, Budget: 10}}, several(10)...)
			var before time.Time
			n := 0
			_ = w.Do(t.Context(), "user", func(context.Context, *events.Instance) error {
				if n > 0 {
					longest[n-1] = max(longest[n-1], time.Since(before))
				}
				n++
				before = time.Now()
				return errCall
			})
			if n != 10 {
				t.Fatalf("%d attempts, want 10", n)
			}
			_ = w.Close()
		}
		for i, got := range longest {
			limit := backoff << min(i, 6)
			if got > limit || got < limit*3/4 {
				t.Errorf("the longest of 60 waits before retry %d is %v, want a little below %v", i+1, got, limit)
			}
		}
	})
}

func TestDoStaysWithinTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Retry: selector.Retry{Backoff: time.Second}}, several(4)...)
		for range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			begin := time.Now()
			n := 0
			err := w.Do(ctx, "user", func(context.Context, *events.Instance) error {
				n++
				return errCall
			})
			cancel()
			// Do does not wait until the deadline if the wait would pass it.
			if took := time.Since(begin); !errors.Is(err, errCall) || took >= 50*time.Millisecond {
				t.Fatalf("%d attempts, %v, error %v, want the call's own error before the deadline", n, took, err)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestDoEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Retry: selector.Retry{Backoff: time.Minute}}, several(4)...)
		ctx, cancel := context.WithCancel(t.Context())
		var calling sync.WaitGroup
		calling.Go(func() {
			n := 0
			err := w.Do(ctx, "user", func(context.Context, *events.Instance) error { n++; return errCall })
			if n != 1 || !errors.Is(err, errCall) {
				t.Errorf("%d attempts, error %v, want one and %v", n, err, errCall)
			}
		})
		synctest.Wait() // it waits to try again
		begin := time.Now()
		cancel()
		calling.Wait()
		if took := time.Since(begin); took != 0 {
			t.Errorf("it went on for %v", took)
		}

		// A context that has ended before the call is no failure of an instance.
		for range 10 {
			called, err := 0, w.Do(ctx, "user", func(ctx context.Context, _ *events.Instance) error {
				t.Error("called")
				return ctx.Err()
			})
			if called != 0 || !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want %v", err, context.Canceled)
			}
		}

		// A call is not tried again when its context ends during the call.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		err := w.Do(ctx, "user", func(ctx context.Context, _ *events.Instance) error {
			n++
			<-ctx.Done()
			return ctx.Err()
		})
		if n != 1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d attempts, error %v, want one and %v", n, err, context.DeadlineExceeded)
		}
	})
}

func TestDoForMayEndThePickLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home))
		var body selector.Pick
		err := w.DoFor(t.Context(), selector.Request{Service: "user"}, func(_ context.Context, p *selector.Pick) error {
			body = p.Keep()
			return nil
		})
		if err != nil || w.candidate("a").InFlight != 1 {
			t.Fatalf("error %v, %d in flight, want 1", err, w.candidate("a").InFlight)
		}
		time.Sleep(time.Minute)
		body.DoneAfter(nil, 3*time.Millisecond)
		if c := w.candidate("a"); c.InFlight != 0 || c.CallMS != 3 {
			t.Errorf("%d in flight, %v ms, want 0 and 3", c.InFlight, c.CallMS)
		}
		// DoFor ends the pick with an error that call did not report.
		err = w.DoFor(t.Context(), selector.Request{Service: "user"}, func(context.Context, *selector.Pick) error { return errRefused })
		if c := w.candidate("a"); !errors.Is(err, errRefused) || c.InFlight != 0 || c.Breaker != "open" {
			t.Errorf("error %v, %d in flight, breaker %s", err, c.InFlight, c.Breaker)
		}
	})
}

func TestACallThatPanicsIsNotInFlightForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, instance("a", home))
		for range 20 {
			func() {
				defer func() {
					if got := recover(); got != "oops" {
						t.Errorf("recovered %v, want oops", got)
					}
				}()
				_ = w.Do(t.Context(), "user", func(context.Context, *events.Instance) error { panic("oops") })
			}()
			var gone sync.WaitGroup
			gone.Go(func() {
				_ = w.Do(t.Context(), "user", func(context.Context, *events.Instance) error {
					runtime.Goexit()
					return nil
				})
			})
			gone.Wait()
		}
		if c := w.candidate("a"); c.InFlight != 0 || c.Breaker != "closed" || c.CallMS != 0 {
			t.Errorf("%s, want nothing in flight and nothing learned", learned(c))
		}
		// A call that panics does not keep the slot of a trial.
		w.call("a", errRefused)
		time.Sleep(6100 * time.Millisecond)
		func() {
			defer func() { _ = recover() }()
			_ = w.Do(t.Context(), "user", func(context.Context, *events.Instance) error { panic("oops") })
		}()
		w.call("a", nil)
		if c := w.candidate("a"); c.Breaker != "closed" {
			t.Errorf("breaker %s after the next trial, want closed", c.Breaker)
		}
	})
}

// All instances of a service restart. A call that has time succeeds when they are back.
func TestDoOutlastsARestartOfAllInstances(t *testing.T) {
	for n := range 4 {
		for _, ask := range []selector.Request{{}, {NonIdempotent: true}} {
			t.Run(fmt.Sprint(n+1, ask.NonIdempotent), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, selector.Options{}, several(n+1)...)
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					began, ask := time.Now(), ask
					ask.Service = "user"
					err := w.DoFor(ctx, ask, func(context.Context, *selector.Pick) error {
						if time.Since(began) < 400*time.Millisecond {
							return errRefused
						}
						return nil
					})
					if took := time.Since(began); n < 2 && err != nil || took > 1500*time.Millisecond {
						t.Errorf("error %v after %v", err, took)
					}
				})
			})
		}
	}
}

// Without time for another round the error comes at once.
func TestDoDoesNotWaitLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(1)...)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := w.Do(ctx, "user", func(context.Context, *events.Instance) error { return errRefused })
		if took := time.Since(began); !errors.Is(err, errRefused) || took > 50*time.Millisecond {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

// serveFor answers after that time, or fails when the attempt is given up.
func serveFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("served: %w", ctx.Err())
	}
}

func TestDoGivesUpAnInstanceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.RoundRobin}, several(2)...)
		for _, tt := range []struct{ known, most time.Duration }{{10 * time.Millisecond, 1100 * time.Millisecond}, {time.Second, 10100 * time.Millisecond}} {
			for range 40 { // what calls usually take
				if err := w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error { return serveFor(ctx, tt.known) }); err != nil {
					t.Fatal(err)
				}
			}
			for range 4 {
				began, attempts := time.Now(), 0
				err := w.Do(t.Context(), "user", func(ctx context.Context, in *events.Instance) error {
					attempts++
					if in.ID == "i0" {
						return serveFor(ctx, time.Hour)
					}
					return serveFor(ctx, tt.known)
				})
				if took := time.Since(began); err != nil || took > tt.most+tt.known || attempts > 2 {
					t.Errorf("calls take %v: error %v after %v and %d attempts", tt.known, err, took, attempts)
				}
			}
		}
	})
}

// A report takes five seconds, on all instances: it is made once, also when it is the
// first call that the service gets.
func TestDoDoesNotGiveUpACallThatTakesLong(t *testing.T) {
	for _, before := range []int{0, 100} {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{}, several(2)...)
			for range before {
				_ = w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error { return serveFor(ctx, 20*time.Millisecond) })
			}
			for i := range 8 {
				attempts := 0
				err := w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error {
					attempts++
					return serveFor(ctx, 5*time.Second)
				})
				if err != nil || attempts > 2 || attempts > 1 && (i > 0 || before == 0) {
					t.Errorf("report %d: %d attempts, %v", i, attempts, err)
				}
			}
			for _, c := range w.explain().Instances {
				if c.Breaker != "closed" {
					t.Errorf("the breaker of %s is %s", c.ID, c.Breaker)
				}
			}
		})
	}
}

// An instance that answers other calls does not hang.
func TestDoDoesNotGiveUpAnInstanceThatAnswersOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		stop := make(chan struct{})
		var others sync.WaitGroup
		for range 8 {
			others.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_ = w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error { return serveFor(ctx, 20*time.Millisecond) })
					}
				}
			})
		}
		time.Sleep(time.Second)
		attempts := 0
		err := w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error {
			attempts++
			return serveFor(ctx, 5*time.Second)
		})
		if err != nil || attempts != 1 {
			t.Errorf("%d attempts, %v", attempts, err)
		}
		close(stop)
		others.Wait()
	})
}

// That calls to an instance are given up is no answer of it.
func TestCallsThatAreGivenUpDoNotHideAnInstanceThatHangs(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: strategy}, several(2)...)
			var hangs atomic.Bool
			var failed, slow atomic.Int64
			call := func() {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				r := selector.Request{Service: "user", Key: fmt.Sprint(rand.Int())}
				err := w.DoFor(ctx, r, func(ctx context.Context, p *selector.Pick) error {
					return p.Try(ctx, func(ctx context.Context) error {
						if hangs.Load() && p.ID == "i0" {
							return serveFor(ctx, time.Hour)
						}
						return serveFor(ctx, 20*time.Millisecond)
					})
				})
				if err != nil {
					failed.Add(1)
				}
				if time.Since(began) > 1500*time.Millisecond {
					slow.Add(1)
				}
			}
			w.open(10*time.Second, 10, call)
			hangs.Store(true)
			w.open(20*time.Second, 10, call)
			if failed.Load() > 0 || slow.Load() > 0 {
				t.Errorf("%s: %d calls failed, %d took long", strategy, failed.Load(), slow.Load())
			}
		})
	}
}

func TestWaitOutlastsAServiceWithoutInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		w.list()
		picked := make(chan error, 2)
		for range 2 {
			go func() {
				p, err := w.PickFor(t.Context(), selector.Request{Service: "user", Wait: true})
				if err == nil {
					p.Done(nil)
				}
				picked <- err
			}()
		}
		time.Sleep(time.Minute)
		w.list(instance("a", home, status(events.NotReady)))
		time.Sleep(time.Minute)
		if len(picked) > 0 {
			t.Fatal("picked one that is not ready")
		}
		began := time.Now()
		w.list(instance("a", home))
		for range 2 {
			if err := <-picked; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("picked after %v", took)
		}
		w.list()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.PickFor(ctx, selector.Request{Service: "user", Wait: true}); !errors.Is(err, selector.ErrUnknownService) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// One of twenty calls takes long. With hedging, a second one takes its place.
func TestAHedgedCallTakesTheTimeOfTheFasterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		var slow, canceled, attempts int
		call := func(ask selector.Request) time.Duration {
			began := time.Now()
			ask.Service = "user"
			var mu sync.Mutex
			first := true
			err := w.DoFor(t.Context(), ask, func(ctx context.Context, p *selector.Pick) error {
				mu.Lock()
				attempts++
				takes := 10*time.Millisecond + rand.N(5*time.Millisecond)
				if first && rand.N(50) == 0 {
					slow++
					takes = time.Second
				}
				first = false
				mu.Unlock()
				err := p.Try(ctx, func(ctx context.Context) error { return serveFor(ctx, takes) })
				if err != nil {
					mu.Lock()
					canceled++
					mu.Unlock()
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		for range 2000 {
			call(selector.Request{})
		}
		slow, attempts = 0, 0
		var longest time.Duration
		for range 2000 {
			longest = max(longest, call(selector.Request{Hedge: true}))
		}
		if longest > 100*time.Millisecond || slow < 10 || canceled < slow {
			t.Errorf("the longest of 2000 calls took %v, %d were slow, %d canceled", longest, slow, canceled)
		}
		if attempts > 2400 {
			t.Errorf("%d attempts for 2000 calls", attempts)
		}
		for _, c := range w.explain().Instances {
			if c.Breaker != "closed" || c.InFlight != 0 {
				t.Errorf("%s: breaker %s, %d in flight", c.ID, c.Breaker, c.InFlight)
			}
		}
	})
}

func TestAHedgedCallFailsAndPanicsAsOthersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		for range 100 {
			_ = w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error { return serveFor(ctx, 10*time.Millisecond) })
		}
		var mu sync.Mutex
		var called []string
		err := w.DoFor(t.Context(), selector.Request{Service: "user", Hedge: true}, func(_ context.Context, p *selector.Pick) error {
			mu.Lock()
			called = append(called, p.ID)
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			return errCall
		})
		if slices.Sort(called); !slices.Equal(called, []string{"i0", "i1", "i2"}) || !errors.Is(err, errCall) {
			t.Errorf("called %v, error %v, want each once", called, err)
		}
		defer func() {
			if recover() == nil {
				t.Error("the panic is lost")
			}
		}()
		_ = w.DoFor(t.Context(), selector.Request{Service: "user", Hedge: true}, func(context.Context, *selector.Pick) error { panic("x") })
	})
}

// An instance hangs in a service some of whose calls take long: the first call takes the time
// of those to find out, the others a second.
func TestASlowCallDoesNotHideAnInstanceThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		call := func(takes func(id string) time.Duration) (time.Duration, error) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := w.Do(ctx, "user", func(ctx context.Context, in *events.Instance) error { return serveFor(ctx, takes(in.ID)) })
			return time.Since(began), err
		}
		for range 50 {
			if _, err := call(func(string) time.Duration { return 20 * time.Millisecond }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := call(func(string) time.Duration { return 5 * time.Second }); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			_, _ = call(func(string) time.Duration { return 20 * time.Millisecond })
		}
		var slow []time.Duration
		for range 1000 {
			took, err := call(func(id string) time.Duration {
				if id == "i0" {
					return time.Hour
				}
				return 20 * time.Millisecond
			})
			if err != nil {
				t.Fatal(err)
			}
			if took > 500*time.Millisecond {
				slow = append(slow, took)
			}
		}
		if len(slow) == 0 || len(slow) > 10 || slow[0] > 8*time.Second {
			t.Errorf("slow calls took %v", slow)
		}
		for _, took := range slow[1:] {
			if took > 2*time.Second {
				t.Errorf("slow calls took %v", slow)
				break
			}
		}
	})
}
