package selector_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// open makes calls at a rate for a time, each in a goroutine of its own.
func (w *world) open(lasts time.Duration, rate int, call func()) {
	w.t.Helper()
	var running sync.WaitGroup
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(time.Duration(rand.ExpFloat64() * float64(time.Second) / float64(rate))) {
		running.Go(call)
	}
	running.Wait()
}

// Rejects of one instance are balanced inside its circle, where another one has room.
func TestNoCallLeavesTheCircleOfOneInstanceThatRejects(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		for _, after := range []time.Duration{0, time.Second} {
			for _, once := range []bool{false, true} {
				t.Run(fmt.Sprint(strategy, " ", after, " ", once), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := start(t, selector.Options{Strategy: strategy}, join(several(2), some("far", farAway, 1, 0))...)
						w.set("far0.example:80", 150*time.Millisecond)
						var rejects atomic.Bool
						var calls, failed, away atomic.Int64
						call := func() {
							r := selector.Request{Service: "user", NonIdempotent: once, Key: fmt.Sprint(rand.Int())}
							err := w.DoFor(t.Context(), r, func(_ context.Context, p *selector.Pick) error {
								switch {
								case p.ID == "i0" && rejects.Load():
									return selector.Overloaded(errors.New("429"), after)
								case p.Location == farAway:
									away.Add(1)
								}
								time.Sleep(20 * time.Millisecond)
								return nil
							})
							calls.Add(1)
							if err != nil {
								failed.Add(1)
							}
						}
						w.open(10*time.Second, 100, call)
						rejects.Store(true)
						calls.Store(0)
						w.open(30*time.Second, 100, call)
						most := int64(0)
						if once {
							most = calls.Load() * 4 / 100 // a reject a second, and those that begin together
						}
						if failed.Load() > most || away.Load() > calls.Load()/100 {
							t.Errorf("of %d calls %d failed, and %d went away", calls.Load(), failed.Load(), away.Load())
						}
						if c := w.candidate("i0"); c.CallMS < 0 || c.CallMS > 6000 {
							t.Errorf("its calls are said to take %v ms", c.CallMS)
						}
						rejects.Store(false)
						w.open(30*time.Second, 100, call)
						if got := w.candidate("i0"); strategy != selector.Nearest && (got.CallMS < 15 || got.CallMS > 40) {
							t.Errorf("when it works again its calls are said to take %v ms", got.CallMS)
						}
					})
				})
			}
		}
	}
}

// Where calls are rare each of them could be a trial of the instance that rejects.
func TestATrialIsNoMoreThanAShare(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LeastRequest, selector.LoadAware} {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: strategy}, several(2)...)
			bad := 0
			const n = 600
			for range n {
				p := w.pick()
				if p.ID == "i0" {
					bad++
					p.Done(selector.Overloaded(errors.New("429"), time.Second))
				} else {
					p.DoneAfter(nil, 20*time.Millisecond)
				}
				time.Sleep(2 * time.Second)
			}
			if bad > n*58/100 {
				t.Errorf("%s: %d of %d calls go to the one of two that rejects", strategy, bad, n)
			}
		})
	}
}

// A service that restarts as a whole fails no call: refused connections cost neither
// attempts nor budget.
func TestNoCallFailsWhileAllInstancesRestart(t *testing.T) {
	for _, instances := range []int{1, 2, 5} {
		for _, once := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{}, several(instances)...)
				var down atomic.Bool
				var failed atomic.Int64
				call := func() {
					err := w.DoFor(t.Context(), selector.Request{Service: "user", NonIdempotent: once}, func(context.Context, *selector.Pick) error {
						if down.Load() {
							return errRefused
						}
						time.Sleep(10 * time.Millisecond)
						return nil
					})
					if err != nil {
						failed.Add(1)
					}
				}
				w.open(5*time.Second, 300, call)
				down.Store(true)
				time.AfterFunc(400*time.Millisecond, func() { down.Store(false) })
				w.open(3*time.Second, 300, call)
				if n := failed.Load(); n > 0 {
					t.Errorf("%d instances, to be executed once: %v: %d calls failed", instances, once, n)
				}
			})
		}
	}
}

// An instance that is only listed takes no call: the only one that works is not given up.
func TestTheLastOneThatWorksIsNotGivenUp(t *testing.T) {
	for name, other := range map[string]events.Entry{
		"not ready":             instance("other", home, status(events.NotReady)),
		"draining":              instance("other", home, status(events.Draining)),
		"another protocol":      instance("other", home, endpoint(events.GRPC, "10.0.0.1:1")),
		"avoided":               instance("avoided", home),
		"its breaker is open":   instance("dead", home),
		"only when none else":   instance("other", home, weight(events.LastResort)),
		"outside of the region": instance("other", farAway),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := selector.Options{}
				o.Spill.Within = "region"
				w := start(t, o, instance("works", home), other)
				ask := selector.Request{Service: "user", Protocol: events.NATS, Avoid: []string{"avoided"}}
				takes := 10 * time.Millisecond
				executed := 0
				call := func() error {
					return w.DoFor(t.Context(), ask, func(ctx context.Context, p *selector.Pick) error {
						return p.Try(ctx, func(ctx context.Context) error {
							if p.ID == "dead" {
								return errRefused
							}
							executed++
							select {
							case <-time.After(takes):
								return nil
							case <-ctx.Done():
								return ctx.Err()
							}
						})
					})
				}
				for range 20 {
					if err := call(); err != nil {
						t.Fatal(err)
					}
				}
				takes, executed = 5*time.Second, 0
				if err := call(); err != nil || executed != 1 {
					t.Errorf("a call that takes 5 s: executed %d times, %v", executed, err)
				}
			})
		})
	}
}

// That two instances hang is less likely than that the call takes long.
func TestALongCallIsExecutedTwiceAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(5)...)
		takes := 10 * time.Millisecond
		executed := 0
		call := func() error {
			return w.Do(t.Context(), "user", func(ctx context.Context, _ *events.Instance) error {
				executed++
				select {
				case <-time.After(takes):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}
		for range 50 {
			if err := call(); err != nil {
				t.Fatal(err)
			}
		}
		takes, executed = 5*time.Second, 0
		if err := call(); err != nil || executed > 2 {
			t.Errorf("executed %d times, %v", executed, err)
		}
	})
}

// Callers that give up soon, but far later than calls take, show that an instance hangs.
func TestAHungInstanceLosesItsShareHoweverSoonCallersGiveUp(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		for _, limit := range []time.Duration{10 * time.Millisecond, 45 * time.Millisecond, 2 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(2)...)
				hangs := false
				serve := func(id string) (time.Duration, error) {
					switch {
					case hangs && id == "i0":
						return limit, context.Canceled
					case rand.N(100) == 0 && limit > time.Second:
						return 3 * time.Second, nil // some calls take long
					}
					return 2 * time.Millisecond, nil
				}
				w.load(2000, 100, serve)
				hangs = true
				w.load(500, 100, serve)
				if n := w.load(3000, 100, serve)["i0"]; n > 300 {
					t.Errorf("%s, given up after %v: %d of 3000 calls", strategy, limit, n)
				}
			})
		}
	}
}

// A caller of few calls keeps the shares of the weights.
func TestWeightsAreSharesOfRareCalls(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LoadAware, selector.LeastRequest} {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: strategy}, instance("a", home, weight(100)), instance("b", home, weight(50)))
			n := map[string]int{}
			for range 900 {
				p := w.pick()
				n[p.ID]++
				p.DoneAfter(nil, 20*time.Millisecond+time.Duration(rand.N(10))*time.Millisecond)
				time.Sleep(15 * time.Second)
			}
			if n["a"] < 550 || n["a"] > 650 {
				t.Errorf("%s: %v, want 600 of 900", strategy, n)
			}
		})
	}
}
