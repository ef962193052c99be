package selector_test

import (
	"context"
	"math"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestP2CAvoidsTheBusyOneAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		for range 60 {
			p := w.pick()
			p.DoneAfter(nil, time.Millisecond)
		}
		var held []selector.Pick
		for range 20 {
			held = append(held, w.aim("i0"))
		}
		count := w.timed(300, func(string) time.Duration { return time.Millisecond })
		if count["i0"] > 0 {
			t.Errorf("the busy one got %d of 300 picks, want none", count["i0"])
		}
		for i := range held {
			held[i].DoneAfter(nil, time.Millisecond)
		}
		count = w.timed(300, func(string) time.Duration { return time.Millisecond })
		if count["i0"] < 50 {
			t.Errorf("the one that was busy got %d of 300 picks, want about 100", count["i0"])
		}
	})
}

func TestP2CAvoidsTheSlowOneAndTriesItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		slow := 100 * time.Millisecond
		took := func(id string) time.Duration {
			if id == "i0" {
				return slow
			}
			return time.Millisecond
		}
		w.timed(100, took) // learns
		if n := w.timed(1000, took)["i0"]; n > 10 {
			t.Errorf("the slow one got %d of 1000 picks, want next to none", n)
		}
		if got := w.candidate("i0").CallMS; got < 50 {
			t.Errorf("its calls take %v ms on average, want about 100", got)
		}
		slow = time.Millisecond // it is fast again
		begin := time.Now()
		for w.timed(10, took)["i0"] == 0 {
			time.Sleep(100 * time.Millisecond)
			if time.Since(begin) > 2*time.Minute {
				t.Fatal("it is fast again and was not tried for two minutes")
			}
		}
		for range 60 { // seconds, with 20 calls each
			w.timed(20, took)
			time.Sleep(980 * time.Millisecond)
		}
		if n := w.timed(300, took)["i0"]; n < 50 {
			t.Errorf("it is fast again for a minute and got %d of 300 picks, want about 100", n)
		}
	})
}

func TestOneSlowCallDoesNotBanAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(2)...)
		took := func(string) time.Duration { return time.Millisecond }
		w.timed(200, took)
		p := w.aim("i0")
		p.DoneAfter(nil, time.Second)
		for range 90 { // seconds, with 20 calls each
			w.timed(20, took)
			time.Sleep(980 * time.Millisecond)
		}
		if n := w.timed(200, took)["i0"]; n < 20 {
			t.Errorf("90 s after one call that took a second it got %d of 200 picks, want about 100", n)
		}
	})
}

// An instance that fails fast must not look fast, or it would attract all calls.
func TestP2CDoesNotTakeFastFailuresForSpeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := selector.Options{}
		o.Breaker.Failures = 1000 // so that the breaker does not open
		w := start(t, o, several(3)...)
		count := make(map[string]int)
		for range 600 {
			p := w.pick()
			count[p.ID]++
			if p.ID == "i0" {
				time.Sleep(10 * time.Microsecond)
				p.Done(errCall)
				continue
			}
			time.Sleep(5 * time.Millisecond)
			p.Done(nil)
		}
		if n := count["i0"]; n > 30 {
			t.Errorf("the one that fails at once got %d of 600 picks, want next to none", n)
		}
	})
}

// The first call of an instance is often a slow one.
func TestASlowFirstCallDoesNotKeepAnInstanceFromItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		cold := true
		took := func(id string) time.Duration {
			if id == "i0" && cold {
				cold = false
				return 500 * time.Millisecond
			}
			return 5 * time.Millisecond
		}
		if n := w.timed(400, took)["i0"]; n < 100 {
			t.Errorf("it got %d of its first 400 picks, want about 133", n)
		}
	})
}

// An instance that hung does not count as slow when it is back, and is tried now and then
// while it hangs.
func TestAnInstanceThatHungIsCalledAgainSecondsAfterItIsBack(t *testing.T) {
	for _, tt := range []struct {
		name     string
		failures int // that open a breaker
	}{{"before its breaker opens", 1000}, {"after its breaker was open", 3}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := selector.Options{}
				o.Breaker.Failures = tt.failures
				o.Breaker.MaxOpenFor = 5 * time.Second
				w := start(t, o, several(2)...)
				hangs := false
				calls := func(d time.Duration) (answers, inVain int) {
					for end := time.Now().Add(d); time.Now().Before(end); {
						p := w.pick()
						if hangs && p.ID == "i0" {
							time.Sleep(500 * time.Millisecond)
							p.Done(errCall)
							inVain++
							continue
						}
						if p.ID == "i0" {
							answers++
						}
						time.Sleep(time.Millisecond)
						p.Done(nil)
					}
					return answers, inVain
				}
				calls(10 * time.Second)
				hangs = true
				if _, inVain := calls(30 * time.Second); inVain < 3 || inVain > 10 {
					t.Errorf("%d calls in vain in 30 s, want one in a few seconds", inVain)
				}
				hangs = false
				calls(6 * time.Second)
				if tt.failures < 1000 {
					calls(30 * time.Second) // it ramps up
				}
				if answers, _ := calls(time.Second); answers < 300 {
					t.Errorf("it answers %d of 1000 calls when it is back, want about half", answers)
				}
			})
		})
	}
}

func TestAFailureCountsAsALongCallAndACancelledOneOnlyIfItWasLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			took   time.Duration
			result error
			want   float64 // of the average after two of 8 ms, in ms
		}{
			{time.Millisecond, nil, 8 - 7.0/32},
			{time.Millisecond, context.Canceled, 8},
			{99 * time.Millisecond, context.Canceled, 8 + 91.0/4}, // at least that long
			{time.Second, context.DeadlineExceeded, 8 + 992.0/4},
			{20 * time.Millisecond, context.DeadlineExceeded, 8 + 12.0/4},
			{time.Millisecond, context.DeadlineExceeded, 8},
			{time.Millisecond, selector.Permanent(errCall), 8},
			{40 * time.Millisecond, selector.Permanent(errCall), 9},
			{time.Millisecond, selector.Overloaded(errCall, 0), 8 + 24.0/4},
			{time.Millisecond, &net.DNSError{}, 8},
			{time.Millisecond, errCall, 8 + 24.0/4},
			{time.Minute, errCall, 8 + 59992.0/4},
		} {
			w := start(t, selector.Options{}, instance("a", home))
			for _, end := range []struct {
				took   time.Duration
				result error
			}{{8 * time.Millisecond, nil}, {8 * time.Millisecond, nil}, {tt.took, tt.result}} {
				p := w.pick()
				p.DoneAfter(end.result, end.took)
			}
			if got := w.candidate("a").CallMS; math.Abs(got-tt.want) > 0.01 {
				t.Errorf("%v after %v: an average of %v ms, want %v", tt.result, tt.took, got, tt.want)
			}
		}
		// The cost of an instance that always fails stays bounded, so that it is tried again.
		o := selector.Options{}
		o.Breaker.Failures = 1000
		w := start(t, o, instance("a", home))
		for range 200 {
			p := w.pick()
			p.DoneAfter(errCall, time.Millisecond)
		}
		if got := w.candidate("a").CallMS; got > 5000 {
			t.Errorf("an average of %v ms after 200 failures, want at most 5000", got)
		}
	})
}

func TestANewInstanceIsNeitherFloodedNorStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Ramp: selector.Ramp{Up: -1}}, several(3)...)
		w.timed(300, func(string) time.Duration { return 20 * time.Millisecond })
		w.list(several(4)...)
		// While none of its calls has ended, calls in flight are compared.
		var held []selector.Pick
		for range 400 {
			held = append(held, w.pick())
		}
		if n := w.candidate("i3").InFlight; n < 90 || n > 110 {
			t.Errorf("the new one of four has %d of the first 400 calls, want about 100", n)
		}
		for i := range held {
			held[i].Done(context.Canceled) // which is not counted
		}
		count := make(map[string]int)
		for range 40 {
			var held []selector.Pick
			for range 10 {
				p := w.pick()
				count[p.ID]++
				held = append(held, p)
			}
			time.Sleep(20 * time.Millisecond)
			for i := range held {
				held[i].Done(nil)
			}
		}
		if n := count["i3"]; n < 60 || n > 140 {
			t.Errorf("the new one of four got %d of 400 picks, want about 100", n)
		}
	})
}

// timed makes n calls, one after the other, that take as long as took returns.
func (w *world) timed(n int, took func(id string) time.Duration) map[string]int {
	w.t.Helper()
	count := make(map[string]int)
	for range n {
		p := w.pick()
		count[p.ID]++
		time.Sleep(took(p.ID))
		p.Done(nil)
	}
	return count
}
