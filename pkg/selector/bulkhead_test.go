package selector_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

func bounded(b selector.Bulkhead) selector.Options { return selector.Options{Bulkhead: b} }

// fill picks until there is no place, and returns the picks.
func (w *world) fill(r ...selector.Request) (held []selector.Pick) {
	w.t.Helper()
	for {
		p, err := w.try(r...)
		if errors.Is(err, selector.ErrFull) {
			return held
		}
		if err != nil || len(held) > 10_000 {
			w.t.Fatalf("pick %d: %v", len(held), err)
		}
		held = append(held, p)
	}
}

func perID(held []selector.Pick) map[string]int {
	count := map[string]int{}
	for _, p := range held {
		count[p.ID]++
	}
	return count
}

// refused is what the service has counted.
func (w *world) bulkheadStats() selector.ServiceStats { return w.Stats().Services[0] }

func TestAFullInstanceIsPassedOverByEveryStrategy(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := bounded(selector.Bulkhead{PerInstance: 3})
				o.Strategy = strategy
				w := start(t, o, instance("a", home), instance("b", home), instance("c", nextDoor), instance("z", nextDoor, weight(events.LastResort)), instance("d", farAway))
				ask := selector.Request{Key: "one key"}
				near := map[string]int{}
				for i := range 6 {
					near[w.pick(ask).ID]++
					if i == 5 && (near["a"] != 3 || near["b"] != 3) {
						t.Fatalf("of the near set: %v, want 3 each", near)
					}
				}
				for range 3 {
					if id := w.pick(ask).ID; id != "c" {
						t.Fatalf("%s after the near set was full, want c", id)
					}
				}
				for range 3 {
					if id := w.pick(ask).ID; id != "d" {
						t.Fatalf("%s after two circles were full, want d", id)
					}
				}
				_, err := w.try(ask)
				full, ok := errors.AsType[*selector.FullError](err)
				if !ok || full.InFlight != 12 || full.Service != "user" || full.RetryAfter < 100*time.Millisecond {
					t.Fatalf("when all are full: %v", err)
				}
				for _, p := range w.candidates() {
					if p.Breaker != breaker.Closed.String() {
						t.Errorf("the breaker of %s is %s", p.ID, p.Breaker)
					}
				}
			})
		})
	}
}

func (w *world) candidates() []selector.Candidate {
	e, err := w.Explain(w.t.Context(), selector.Request{Service: "user"})
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Instances
}

func TestNoMoreCallsAreInFlightThanMayBe(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := bounded(selector.Bulkhead{PerInstance: 4, PerService: 10, Queue: 20})
				o.Strategy = strategy
				w := start(t, o, instance("a", home), instance("b", home), instance("c", nextDoor))
				var all atomic.Int64
				var each [3]atomic.Int64
				var good, most atomic.Int64
				var callers sync.WaitGroup
				for i := range 200 {
					callers.Go(func() {
						for k := range 20 {
							p, err := w.PickFor(t.Context(), selector.Request{Service: "user", Key: fmt.Sprint(i, k)})
							if err != nil {
								if !errors.Is(err, selector.ErrFull) {
									t.Error(err)
								}
								continue
							}
							n, sum := each[p.ID[0]-'a'].Add(1), all.Add(1)
							if n > 4 || sum > 10 {
								t.Errorf("%d calls in flight to %s, %d to all", n, p.ID, sum)
							}
							most.Store(max(most.Load(), sum))
							if k%2 == 0 {
								time.Sleep(time.Millisecond)
							}
							good.Add(1)
							each[p.ID[0]-'a'].Add(-1)
							all.Add(-1)
							switch k % 3 {
							case 0:
								p.Done(nil)
							case 1:
								p.Answered(time.Millisecond)
								p.Done(nil)
							case 2:
								p.Done(context.Canceled)
							}
						}
					})
				}
				callers.Wait()
				if most.Load() != 10 || good.Load() < 100 {
					t.Errorf("at most %d in flight, %d calls, want 10 and more than 100", most.Load(), good.Load())
				}
				w.free(10)
			})
		})
	}
}

// free fails the test unless so many places are free, and none is in use.
func (w *world) free(n int) {
	w.t.Helper()
	if s := w.bulkheadStats(); s.Waiting != 0 {
		w.t.Errorf("%d calls wait", s.Waiting)
	}
	for _, c := range w.candidates() {
		if c.InFlight != 0 {
			w.t.Errorf("%d calls in flight to %s", c.InFlight, c.ID)
		}
	}
	all := w.fill()
	if len(all) != n {
		w.t.Errorf("%d places are free, want %d", len(all), n)
	}
	for i := range all {
		all[i].Done(nil)
	}
}

func TestCallsGetPlacesInTheOrderInWhichTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerInstance: 2, Queue: 5, QueueTimeout: time.Second}), instance("a", home))
		busy := []selector.Pick{w.pick(), w.pick()}
		var order []int
		type taken struct {
			by   int
			pick selector.Pick
		}
		picks := make(chan taken, 10)
		for i := range 5 {
			go func() {
				p, err := w.Pick(t.Context(), "user")
				if err != nil {
					t.Error(err)
					return
				}
				picks <- taken{i, p}
			}()
			synctest.Wait()
		}
		if _, err := w.try(); !errors.Is(err, selector.ErrFull) {
			t.Errorf("with a full queue: %v", err)
		}
		if s := w.bulkheadStats(); s.Waiting != 5 || s.QueuedCalls != 5 || s.RefusedCalls != 1 {
			t.Errorf("%d wait, %d queued, %d refused, want 5, 5, 1", s.Waiting, s.QueuedCalls, s.RefusedCalls)
		}
		for i := range busy {
			busy[i].Done(nil)
		}
		for range 5 {
			synctest.Wait()
			next := <-picks
			order = append(order, next.by)
			next.pick.Done(errBroken) // whatever the outcome
		}
		synctest.Wait()
		if !slices.Equal(order, []int{0, 1, 2, 3, 4}) {
			t.Errorf("order %v", order)
		}
		w.free(2)
	})
}

var errBroken = errors.New("broken")

func TestACallWaitsNoLongerThanItsContextAndLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerInstance: 1, Queue: 5}), instance("a", home))
		busy := w.pick()
		began := time.Now()
		if _, err := w.try(); !errors.Is(err, selector.ErrFull) || time.Since(began) != 100*time.Millisecond {
			t.Errorf("after %v: %v, want to be refused after 100 ms", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		began = time.Now()
		if _, err := w.Pick(ctx, "user"); !errors.Is(err, selector.ErrFull) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 30*time.Millisecond {
			t.Errorf("after %v: %v, want to be refused after 30 ms", time.Since(began), err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		ends := make(chan error, 2)
		go func() {
			_, err := w.Pick(ctx, "user")
			ends <- err
		}()
		synctest.Wait()
		go func() {
			p, err := w.Pick(t.Context(), "user")
			p.Done(nil)
			ends <- err
		}()
		synctest.Wait()
		cancel()
		busy.Done(nil) // at the same time: the second one gets the place
		if a, b := <-ends, <-ends; a != nil && b != nil {
			t.Errorf("%v and %v: the place of a canceled call was lost", a, b)
		}
		w.free(1)
	})
}

func TestAnEndOfTheSelectorEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerInstance: 1, Queue: 5, QueueTimeout: time.Minute}), instance("a", home))
		w.pick()
		end := make(chan error)
		go func() {
			_, err := w.Pick(t.Context(), "user")
			end <- err
		}()
		synctest.Wait()
		_ = w.Close()
		if err := <-end; !errors.Is(err, selector.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestAnAnswerFreesThePlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerService: 1}), instance("a", home))
		stream := w.pick()
		if _, err := w.try(); !errors.Is(err, selector.ErrFull) {
			t.Errorf("before the answer: %v", err)
		}
		stream.Answered(time.Millisecond)
		next := w.pick()
		next.Done(nil)
		stream.Done(nil)
		w.free(1)
	})
}

func TestAChangeOfThePolicyFreesAndTightens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"bulkhead":{"per_instance":2,"queue":4,"queue_timeout":"10s"}}`)
		w.list(instance("a", home))
		w.pick()
		busy := w.pick()
		got := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := w.Pick(t.Context(), "user")
				got <- err
			}()
		}
		synctest.Wait()
		w.set(`{"bulkhead":{"per_instance":3,"queue":4,"queue_timeout":"10s"}}`)
		if err := <-got; err != nil || len(got) != 0 {
			t.Errorf("one more may go: %v, and %d others", err, len(got))
		}
		w.set(``)
		if a, b := <-got, <-got; a != nil || b != nil {
			t.Errorf("all may go: %v, %v", a, b)
		}
		w.set(`{"bulkhead":{"per_instance":5}}`)
		if _, err := w.try(); !errors.Is(err, selector.ErrFull) {
			t.Errorf("calls that began without a limit count: %v", err)
		}
		busy.Done(nil)
		w.pick()
		if _, err := w.try(); !errors.Is(err, selector.ErrFull) {
			t.Errorf("the limit is 5: %v", err)
		}
	})
}

func TestCodeAndPolicyDecideFieldByField(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, bounded(selector.Bulkhead{PerInstance: 2}), `{"bulkhead":{"per_instance":3,"per_service":5}}`)
		w.list(instance("a", home), instance("b", home), instance("c", home))
		all := w.fill()
		if n := perID(all); len(all) != 5 || n["a"] > 2 || n["b"] > 2 || n["c"] > 2 {
			t.Errorf("code over the document: %v", n)
		}
		w.set(`{"over_code":true,"bulkhead":{"per_instance":3,"per_service":8}}`)
		all = append(all, w.fill()...)
		if n := perID(all); len(all) != 8 || n["a"] > 3 || n["b"] > 3 || n["c"] > 3 {
			t.Errorf("the document over code: %v", n)
		}
	})
}

func TestCallsThatMustNotLeaveWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := bounded(selector.Bulkhead{PerInstance: 1})
		o.Spill.Off = true
		w := start(t, o, instance("a", home), instance("b", nextDoor))
		if n := perID(w.fill()); n["a"] != 1 || n["b"] != 0 {
			t.Errorf("%v", n)
		}
		o.Spill = selector.Spill{Within: topology.Zone}
		w = start(t, o, instance("a", home), instance("b", nextDoor))
		if n := perID(w.fill()); n["a"] != 1 || n["b"] != 0 {
			t.Errorf("within the zone: %v", n)
		}
	})
}

func TestAFullSubsetUsesItsFallbackAndDoesNotKeepOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"bulkhead":{"per_instance":1,"queue":4,"queue_timeout":"1s"}}`)
		w.list(instance("a", home, version("1.0.0")), instance("b", home, version("2.0.0")))
		old := w.pick(where("version=1.0.0"))
		got := make(chan selector.Pick, 1)
		go func() { got <- w.pick(where("version=1.0.0")) }()
		synctest.Wait()
		began := time.Now()
		if p := w.pick(where("version=2.0.0")); p.ID != "b" || time.Since(began) != 0 {
			t.Errorf("%s after %v", p.ID, time.Since(began))
		} else {
			p.Done(nil)
		}
		if len(got) != 0 {
			t.Error("a call went to a full instance")
		}
		old.Done(nil)
		p := <-got
		w.set(`{"fallback":"any","bulkhead":{"per_instance":1}}`)
		if p := w.pick(where("version=1.0.0")); p.ID != "b" {
			t.Errorf("%s, want the fallback", p.ID)
		}
		p.Done(nil)
	})
}

func TestARetryAndAHedgeTakePlacesToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerService: 1, PerInstance: 1}), instance("a", home), instance("b", home))
		calls := 0
		err := w.Do(t.Context(), "user", func(context.Context, *events.Instance) error {
			if s := w.Stats().Services[0].Circles[0]; s.InFlight != 1 {
				t.Errorf("%d in flight", s.InFlight)
			}
			if calls++; calls == 1 {
				return errBroken
			}
			return nil
		})
		if err != nil || calls != 2 {
			t.Errorf("%d calls: %v", calls, err)
		}
		for range 20 { // hedges are made after what 95 % of the calls take
			p := w.pick()
			time.Sleep(10 * time.Millisecond)
			p.Done(nil)
		}
		err = w.DoFor(t.Context(), selector.Request{Service: "user", Hedge: true}, func(context.Context, *selector.Pick) error {
			time.Sleep(500 * time.Millisecond)
			return nil
		})
		if s := w.bulkheadStats(); err != nil || s.Hedges != 0 {
			t.Errorf("%d hedges without a place: %v", s.Hedges, err)
		}
		w.free(1)
	})
}

func TestACopyOfACallTakesAPlaceAndIsNoPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startRuled(t, selector.Options{}, `{"bulkhead":{"per_instance":1},"mirror":{"where":"version=2.0.0","share":1}}`)
		w.list(instance("a", home, version("1.0.0")), instance("b", home, version("2.0.0")))
		end := make(chan struct{})
		copies := func() {
			w.Mirror(selector.Request{Service: "user"}, func() func(context.Context, *selector.Pick) error {
				return func(context.Context, *selector.Pick) error { <-end; return nil }
			})
			synctest.Wait()
		}
		copies()
		if _, err := w.try(where("version=2.0.0")); !errors.Is(err, selector.ErrFull) {
			t.Errorf("beside a copy: %v", err)
		}
		copies()
		s := w.bulkheadStats()
		if s.Mirrored != 1 || s.DroppedMirrors != 1 || s.Circles[0].Picks != 0 || s.Circles[0].Outcomes[selector.Success] != 0 {
			t.Errorf("%d copies, %d dropped, %d picks, %d successes", s.Mirrored, s.DroppedMirrors, s.Circles[0].Picks, s.Circles[0].Outcomes[selector.Success])
		}
		close(end)
		synctest.Wait()
		if s := w.bulkheadStats(); s.Circles[0].Picks != 0 || s.Circles[0].Outcomes[selector.Success] != 0 {
			t.Errorf("then %d picks, %d successes", s.Circles[0].Picks, s.Circles[0].Outcomes[selector.Success])
		}
		w.free(2)
	})
}

func TestAForgottenCallGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerInstance: 3, PerService: 2}), instance("a", home))
		p := w.pick()
		w.pick()
		time.Sleep(21 * time.Minute)
		w.free(2)
		p.Done(nil) // late
		w.free(2)
	})
}

func TestExplainNamesFullInstancesAndLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{PerInstance: 2, PerService: 9, Queue: 1}), instance("a", home))
		w.pick()
		w.pick()
		e, err := w.Explain(t.Context(), selector.Request{Service: "user"})
		if err != nil {
			t.Fatal(err)
		}
		a := e.Instances[0]
		if !a.Full || a.Limit != 2 || !strings.Contains(a.Reason, "full: 2 of 2 calls in flight") || !strings.Contains(e.Circles[0].Note, "1 of 1 instances of the near set are full") {
			t.Errorf("%+v, %q", a.Standing, e.Circles[0].Note)
		}
		if b := e.Bulkhead; b == nil || b.PerService != 9 || b.InFlight != 2 || b.Queue != 1 {
			t.Errorf("%+v", e.Bulkhead)
		}
		if c := w.bulkheadStats().Circles[0]; c.Limit != 2 || c.Full != 1 {
			t.Errorf("stats: limit %d, %d full", c.Limit, c.Full)
		}
	})
}

func TestBulkheadOptionsAreChecked(t *testing.T) {
	for _, b := range []selector.Bulkhead{{PerInstance: -1}, {PerService: 2_000_000}, {Queue: -1}, {QueueTimeout: -1}} {
		if _, err := selector.New(t.Context(), nil, selector.Options{Source: selector.Static(), Bulkhead: b}); err == nil {
			t.Errorf("%+v is allowed", b)
		}
	}
}

// workers is a server that serves so many calls at a time, in order.
type workers struct {
	free  chan struct{}
	takes time.Duration
}

func newWorkers(n int, takes time.Duration) *workers {
	return &workers{make(chan struct{}, n), takes}
}

func (s *workers) serve() {
	s.free <- struct{}{}
	time.Sleep(s.takes)
	<-s.free
}

// offer makes calls at fixed intervals for some time. It returns how many were answered, how
// many were refused, and the mean of how long the answers of the second half took.
func (w *world) offer(s *workers, every, during time.Duration) (good, refused int64, mean time.Duration) {
	var took, late, ok, no atomic.Int64
	var calls sync.WaitGroup
	began := time.Now()
	for time.Since(began) < during {
		calls.Go(func() {
			p, err := w.Pick(w.t.Context(), "user")
			if err != nil {
				no.Add(1)
				return
			}
			at := time.Now()
			s.serve()
			p.Done(nil)
			ok.Add(1)
			if at.Sub(began) > during/2 {
				took.Add(int64(time.Since(at)))
				late.Add(1)
			}
		})
		time.Sleep(every)
	}
	calls.Wait()
	return ok.Load(), no.Load(), time.Duration(took.Load() / max(1, late.Load()))
}

func TestAnAdaptiveLimitFindsTheKneeOfAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{Adaptive: true}), instance("a", home))
		s := newWorkers(10, 10*time.Millisecond)
		if good, refused, _ := w.offer(s, 2*time.Millisecond, 10*time.Second); refused > 0 {
			t.Errorf("%d answered, %d refused at half of what the server can do", good, refused)
		}
		good, refused, mean := w.offer(s, 500*time.Microsecond, 30*time.Second)
		limit := w.candidates()[0].Limit
		t.Logf("limit %d, %d answered, %d refused, in %v", limit, good, refused, mean)
		if good < 27_000 || mean > 30*time.Millisecond || limit < 10 || limit > 25 {
			t.Errorf("limit %d, %d answered in %v, want 10 to 25, 27000 of the 30000 that the server can do, 30ms", limit, good, mean)
		}
		// The server gets twice the workers.
		s = newWorkers(20, 10*time.Millisecond)
		good, _, mean = w.offer(s, 250*time.Microsecond, 30*time.Second)
		if good < 54_000 || mean > 30*time.Millisecond {
			t.Errorf("with more workers: limit %d, %d answered in %v", w.candidates()[0].Limit, good, mean)
		}
		// And then half of them.
		s = newWorkers(5, 10*time.Millisecond)
		good, _, mean = w.offer(s, time.Millisecond, 30*time.Second)
		if good < 13_500 || mean > 30*time.Millisecond {
			t.Errorf("with fewer workers: limit %d, %d answered in %v", w.candidates()[0].Limit, good, mean)
		}
	})
}

func TestAnAdaptiveLimitLeavesAFastServiceAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{Adaptive: true, PerInstance: 100}), instance("a", home))
		for i := range 3000 { // one at a time, some of them 10 times as long
			p := w.pick()
			time.Sleep(100 * time.Microsecond)
			if i%20 == 0 {
				time.Sleep(900 * time.Microsecond)
			}
			p.Done(nil)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(5 * time.Minute)
		if limit := w.candidates()[0].Limit; limit < 8 {
			t.Errorf("limit %d after calls one at a time", limit)
		}
		_, refused, _ := w.offer(newWorkers(1000, 100*time.Microsecond), 20*time.Microsecond, 3*time.Second)
		if refused > 0 {
			t.Errorf("%d refused at 5 calls in flight", refused)
		}
	})
}

func TestAnAdaptiveLimitGrowsWithACapableServerUpToItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, bounded(selector.Bulkhead{Adaptive: true, PerInstance: 60}), instance("a", home))
		w.offer(newWorkers(1000, 10*time.Millisecond), 100*time.Microsecond, 5*time.Second)
		if limit := w.candidates()[0].Limit; limit != 60 {
			t.Errorf("limit %d, want 60", limit)
		}
	})
}
