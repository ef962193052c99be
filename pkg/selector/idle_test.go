package selector_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// A service that was called once costs no probes for ever. Its list stays known, and its
// distances are known again a moment after the next call.
func TestAServiceThatIsNotCalledIsNotMeasuredForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		a, b := w.at("a", home, 2*time.Millisecond), w.at("b", home, 9*time.Millisecond)
		w.list(a, b)
		w.picks(10)
		probes := func(d time.Duration) uint64 {
			before := w.Stats().Latency.Probes
			time.Sleep(d)
			return w.Stats().Latency.Probes - before
		}
		usual := probes(10 * time.Minute)
		time.Sleep(5 * time.Minute)
		if rarely := probes(40 * time.Minute); rarely == 0 || rarely > usual*4/10*2 {
			t.Errorf("%d probes in 40 minutes without calls, %d in ten with calls", rarely, usual)
		}
		time.Sleep(10 * time.Minute)
		if never := probes(24 * time.Hour); never > 0 {
			t.Errorf("%d probes in a day without calls", never)
		}

		w.set("a.example:80", 20*time.Millisecond) // it has moved meanwhile
		w.picks(1)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if got := w.picks(20)["b"]; got != 20 {
			t.Errorf("%d of 20 picks go to the nearer one", got)
		}

		// A call every minute is enough for it to be measured as usual.
		time.Sleep(time.Minute)
		before := w.Stats().Latency.Probes
		for range 120 {
			w.picks(1)
			time.Sleep(time.Minute)
		}
		if got := (w.Stats().Latency.Probes - before) / 12; got < usual*7/10 {
			t.Errorf("%d probes in ten minutes with a call a minute, want about %d", got, usual)
		}
	})
}
