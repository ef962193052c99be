package selector_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// outcomes are errors by which calls end, with the outcome that each must be.
var outcomes = []struct {
	name  string
	err   error
	want  selector.Outcome
	alike bool // the one before is of the same kind
}{
	{"success", nil, selector.Success, false},
	{"answer", selector.Permanent(errors.New("status 404")), selector.Answer, false},
	{"backpressure", selector.Overloaded(errors.New("status 429"), 0), selector.Backpressure, false},
	{"fault", errors.New("status 500"), selector.Fault, false},
	{"broken connection", io.ErrUnexpectedEOF, selector.Fault, true},
	{"deadline", context.DeadlineExceeded, selector.Fault, true},
	{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, selector.Fault, true},
	{"canceled", fmt.Errorf("get: %w", context.Canceled), selector.Canceled, false},
	{"no file descriptors", &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}, selector.Local, false},
	{"no route", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}, selector.Local, true},
	{"no name", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "user", IsNotFound: true}}, selector.Fault, true},
	{"no name server", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "server misbehaving", Name: "user", IsTemporary: true}}, selector.Local, true},
}

func TestErrorsAreClassified(t *testing.T) {
	for _, tt := range outcomes {
		if got := selector.Classify(tt.err); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// An instance that fails, or answers with an error, at once must not attract calls.
func TestNoOutcomeThatComesAtOnceAttractsCalls(t *testing.T) {
	const n = 1500
	for _, strategy := range selector.Strategies() {
		if strategy == selector.Nearest {
			continue // one instance gets all calls
		}
		for _, tt := range outcomes {
			if tt.err == nil || tt.alike {
				continue
			}
			rates, others := []int{1, 4, 16, 200}, []int{1, 5}
			if raced {
				rates, others = []int{200}, []int{1}
			}
			for _, rate := range rates {
				for _, good := range others {
					t.Run(fmt.Sprint(strategy, " ", tt.name, " ", rate, " 1 of ", good+1), func(t *testing.T) {
						t.Parallel() // beside each other only: no bubble with a server runs meanwhile
						synctest.Test(t, func(t *testing.T) {
							o := selector.Options{Strategy: strategy}
							o.Breaker.Failures = 1 << 30 // balancing alone
							w := start(t, o, append(several(good), instance("bad", home))...)
							bad := w.load(n, rate, func(id string) (time.Duration, error) {
								if id == "bad" {
									return 100 * time.Microsecond, tt.err
								}
								return 20*time.Millisecond + time.Duration(rand.N(10))*time.Millisecond, nil
							})["bad"]
							if fair := float64(n) / float64(good+1); float64(bad) > 1.1*fair+3*math.Sqrt(fair) {
								t.Errorf("it gets %.0f %% of its share", 100*float64(bad)/fair)
							}
						})
					})
				}
			}
		}
	}
}

// Some callers of one instance give up soon, so only the quicker calls to it succeed: it must not
// look fast for that. Nor must it be left because of a few.
func TestCallersInAHurryDoNotChangeShares(t *testing.T) {
	const n = 4000
	services := map[string]func() time.Duration{
		"exponential": func() time.Duration { return time.Duration(rand.ExpFloat64() * float64(20*time.Millisecond)) },
		"few long ones": func() time.Duration {
			if rand.N(5) == 0 {
				return 100 * time.Millisecond
			}
			return 2 * time.Millisecond
		},
	}
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LoadAware, selector.LeastRequest, selector.ConsistentHash} {
		for name, takes := range services {
			for _, rate := range []int{16, 200, 1000} {
				for _, hurry := range []time.Duration{5 * time.Millisecond, 10 * time.Millisecond} {
					if raced && rate != 200 {
						continue
					}
					t.Run(fmt.Sprint(strategy, " ", name, " ", rate, " ", hurry), func(t *testing.T) {
						t.Parallel()
						synctest.Test(t, func(t *testing.T) {
							w := start(t, selector.Options{Strategy: strategy}, several(2)...)
							cut := false
							serve := func(id string) (time.Duration, error) {
								if d := takes(); !cut || id != "i0" || d < hurry || rand.N(10) >= 3 {
									return d, nil
								}
								return hurry, context.Canceled
							}
							w.load(500, rate, serve)
							cut = true
							most := 1.1
							if rate < 100 {
								most = 1.25 // of few calls the average says little
							}
							if got := float64(w.load(n, rate, serve)["i0"]) / (n / 2); got > most+3/math.Sqrt(n/2) || got < 0.6 {
								t.Errorf("it gets %.0f %% of its share", 100*got)
							}
						})
					})
				}
			}
		}
	}
}

// A caller begins, and has not seen a call succeed when the first quick answer comes.
func TestAnswersBeforeAnySuccessDoNotAttractCalls(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LoadAware, selector.LeastRequest} {
		for _, rate := range []int{4, 16, 200} {
			bad, n := 0, max(50, 3*rate) // what calls take is known after a fifth of a second
			const callers = 40
			for range callers {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, selector.Options{Strategy: strategy}, several(2)...)
					w.call("i0", selector.Permanent(errCall))
					bad += w.load(n, rate, func(id string) (time.Duration, error) {
						if id == "i0" {
							return 300 * time.Microsecond, selector.Permanent(errCall)
						}
						return 25 * time.Millisecond, nil
					})["i0"]
				})
			}
			if got := float64(bad) / float64(callers*n/2); got > 1.1+3/math.Sqrt(float64(callers*n/2)) {
				t.Errorf("%s at %d calls/s: it gets %.0f %% of its share", strategy, rate, 100*got)
			}
		}
	}
}

// The first call of an instance takes longer than others do, if only for the processor's caches.
func TestWeightsAreSharesOfCallsThatTakeNoTime(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LoadAware} {
		synctest.Test(t, func(t *testing.T) {
			w := start(t, selector.Options{Strategy: strategy}, instance("a", home, weight(100)), instance("b", home, weight(50)))
			calls := make(map[string]int)
			for range 1000 {
				p := w.pick()
				took := 200 * time.Nanosecond
				if calls[p.ID]++; calls[p.ID] == 1 && p.ID == "b" {
					took = 60 * time.Microsecond
				}
				time.Sleep(took)
				p.Done(nil)
			}
			if calls["b"] < 280 || calls["b"] > 390 {
				t.Errorf("%s: %v", strategy, calls)
			}
		})
	}
}

// What is held against an instance ends in milliseconds, whatever the strategy knows of the time.
func TestQuickEndsDoNotCostAnInstanceItsShare(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		if strategy == selector.Nearest {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			const n = 4000
			w := start(t, selector.Options{Strategy: strategy}, several(2)...)
			serve := func(id string) (time.Duration, error) {
				if id == "i0" && rand.N(2) == 0 {
					return 100 * time.Microsecond, selector.Permanent(errCall)
				}
				return 25 * time.Millisecond, nil
			}
			w.load(500, 1000, serve)
			if got := float64(w.load(n, 1000, serve)["i0"]) / (n / 2); got < 0.85 || got > 1.1+3/math.Sqrt(n/2) {
				t.Errorf("%s: it gets %.0f %% of its share", strategy, 100*got)
			}
		})
	}
}

// load makes n calls, at random times at that rate a second, and counts them by instance.
func (w *world) load(n, rate int, serve func(id string) (time.Duration, error)) map[string]int {
	w.t.Helper()
	calls := make(map[string]int)
	for i := range n {
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(time.Second) / float64(rate)))
		p := w.pick(selector.Request{Key: fmt.Sprint(i)})
		calls[p.ID]++
		took, err := serve(p.ID)
		time.AfterFunc(took, func() { p.Done(err) })
	}
	return calls
}

// The callers give up after two seconds, by canceling or by a deadline. The next
// calls should not wait for the same instance.
func TestAHungInstanceLosesItsShareWhenItsCallsAreGivenUp(t *testing.T) {
	for _, end := range []error{context.Canceled, context.DeadlineExceeded} {
		for _, rate := range []int{10, 40} {
			t.Run(fmt.Sprint(end, " ", rate), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := start(t, selector.Options{}, several(3)...)
					hangs := false
					serve := func(id string) (time.Duration, error) {
						if hangs && id == "i0" {
							return 2 * time.Second, end
						}
						return 10 * time.Millisecond, nil
					}
					w.load(20*rate, rate, serve)
					hangs = true
					w.load(2*rate, rate, serve)
					if n := w.load(60*rate, rate, serve)["i0"]; n > 60*rate/40 {
						t.Errorf("%d of %d calls go to the instance that hangs", n, 60*rate)
					}
					hangs = false
					w.load(100*rate, rate, serve) // its breaker is open for a minute at most, then it ramps up
					if n := w.load(30*rate, rate, serve)["i0"]; n < 30*rate/6 {
						t.Errorf("%d of %d calls go to the instance when it is back", n, 30*rate)
					}
				})
			})
		}
	}
}

func TestAPickThatIsEndedTwiceDoesNoHarm(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(2)...)
				for i := range 100 {
					p := w.pick(key(i))
					q := p
					p.Done(nil)
					q.Done(nil)
					q.Done(nil)
				}
				for _, c := range w.explain().Instances {
					if c.InFlight != 0 || c.Picks > 100 {
						t.Errorf("%s: %d in flight of %d picks", c.ID, c.InFlight, c.Picks)
					}
				}
				if strategy == selector.Nearest {
					return
				}
				calls := w.load(1000, 200, func(string) (time.Duration, error) { return 20 * time.Millisecond, nil })
				wantShares(t, calls, equalShares(2))
			})
		})
	}
}

// Three forgotten calls to each near instance are no load: later calls stay near, and
// are divided evenly, and the log says it once.
func TestForgottenCallsAreNoLoadForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs testkit.Output
		w := start(t, selector.Options{Logger: logs.Logger(slog.LevelInfo)}, join(several(2), some("far", farAway, 1, 0))...)
		for range 6 {
			w.aim("i0")
		}
		time.Sleep(21 * time.Minute)
		if c := w.candidate("i0"); c.InFlight != 0 {
			t.Errorf("%d calls are in flight to %s", c.InFlight, c.ID)
		}
		calls := w.load(2000, 20, func(string) (time.Duration, error) { return 50 * time.Millisecond, nil })
		wantShares(t, calls, equalShares(2))
		if n := strings.Count(logs.String(), "calls have not ended"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, logs.String())
		}
	})
}

// Calls that take longer than a period are in flight until they end.
func TestLongCallsAreCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(1)...)
		time.Sleep(9 * time.Minute)
		var held []selector.Pick
		for range 5 {
			held = append(held, w.pick())
		}
		time.Sleep(3 * time.Minute)
		w.picks(100)
		if got := w.candidate("i0").InFlight; got != 5 {
			t.Errorf("%d calls in flight, want 5", got)
		}
		for i := range held[:3] {
			held[i].Done(nil)
		}
		if got := w.candidate("i0").InFlight; got != 2 {
			t.Errorf("%d calls in flight, want 2", got)
		}
		time.Sleep(time.Hour)
		p := w.pick()
		held[3].Done(nil) // after it was given up
		if got := w.candidate("i0").InFlight; got != 1 {
			t.Errorf("%d calls in flight, want 1", got)
		}
		p.Done(nil)
		if got := w.candidate("i0").InFlight; got != 0 {
			t.Errorf("%d calls in flight, want 0", got)
		}
	})
}

func TestWeightsAreSharesAtAnyLoad(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LeastRequest, selector.LoadAware, selector.Random, selector.WeightedRoundRobin, selector.ConsistentHash} {
		tolerance := 0.04
		if strategy == selector.ConsistentHash {
			tolerance = 0.08 // there are 160 points of a ring for a weight of 100
		}
		for _, weights := range [][]int{{100, 50}, {100, 100, 50}, {300, 100}} {
			for _, workers := range []int{0, 1, 2, 3, 4, 8, 32, 128} {
				if raced && workers != 8 {
					continue
				}
				t.Run(fmt.Sprint(strategy, weights, workers), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						var entries []events.Entry
						sum := 0
						for i, of := range weights {
							entries = append(entries, instance(fmt.Sprint("i", i), home, weight(of)))
							sum += of
						}
						w := start(t, selector.Options{Strategy: strategy}, entries...)
						const n = 6000
						calls := make(map[string]int)
						var mu sync.Mutex
						var running sync.WaitGroup
						for range max(workers, 1) {
							running.Go(func() {
								for range n / max(workers, 1) {
									p := w.pick(key(rand.Int()))
									mu.Lock()
									calls[p.ID]++
									mu.Unlock()
									if workers > 0 {
										time.Sleep(15*time.Millisecond + time.Duration(rand.N(10))*time.Millisecond)
									}
									p.Done(nil)
								}
							})
						}
						running.Wait()
						for i, of := range weights {
							got, want := float64(calls[fmt.Sprint("i", i)])/float64(n/max(workers, 1)*max(workers, 1)), float64(of)/float64(sum)
							if math.Abs(got-want) > tolerance {
								t.Errorf("weight %d gets %.3f of the calls, want %.3f", of, got, want)
							}
						}
					})
				})
			}
		}
	}
}

// What the user's function returns must not count for another circle, nor be forgotten.
func TestWhatIsNoOutcomeIsAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := selector.Options{Retry: selector.Retry{Classify: func(error) selector.Outcome { return 200 }}}
		o.Breaker.Failures = 1
		w := start(t, o, instance("a", home))
		w.call("a", errCall)
		if c := w.candidate("a"); c.Breaker != "open" {
			t.Errorf("the breaker is %s", c.Breaker)
		}
		if n := w.Stats().Services[0].Circles[0].Outcomes[selector.Fault]; n != 1 {
			t.Errorf("%d faults are counted, want 1", n)
		}
	})
}
