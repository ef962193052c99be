package selector_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A worker makes all of its calls under the context of its process.
func TestManyCallsUnderOneContextLeaveNothing(t *testing.T) {
	const calls = 100_000
	s := openAlways(t, selector.Options{Retry: selector.Retry{Backoff: 1}}, several(3)...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	attempts := 0
	do := func(calls int) {
		for range calls {
			err := s.Do(ctx, "user", func(context.Context, *events.Instance) error {
				if attempts++; attempts%100 == 0 {
					return errCall
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	do(1000)
	before, goroutines := heap(), runtime.NumGoroutine()
	do(calls)
	if perCall := float64(heap()-before) / calls; perCall > 20 {
		t.Errorf("%.0f bytes a call are kept", perCall)
	}
	if got := runtime.NumGoroutine(); got > goroutines+5 {
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
}

func TestUnknownNamesLeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, shared := newBoard(), newBus()
		board.write("real", instance("a", home))
		w := newWorld(t, sharing(shared, selector.Options{Source: board}))
		if _, err := w.Pick(t.Context(), "real"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		goroutines := runtime.NumGoroutine()
		_, _, listening := shared.traffic()
		for i := range 10_000 {
			if _, err := w.Pick(t.Context(), fmt.Sprint("fake", i)); !errors.Is(err, selector.ErrUnknownService) {
				t.Fatalf("fake%d: %v", i, err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := board.watches(t); got != 1 {
			t.Errorf("%d services are watched, want the one that exists", got)
		}
		if got := runtime.NumGoroutine(); got > goroutines+5 { // those of the runtime and of other tests
			t.Errorf("%d goroutines, %d before", got, goroutines)
		}
		if _, _, got := shared.traffic(); got != listening {
			t.Errorf("%d subscriptions, %d before", got, listening)
		}
		for subject := range shared.subjects() {
			if subject != "real" {
				t.Errorf("something was published about %s", subject)
			}
		}
	})
}

func TestAnUnknownNameIsNotAskedForAgainForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		w := newWorld(t, selector.Options{Source: b})
		ask := func() error {
			_, err := w.Pick(t.Context(), "user")
			return err
		}
		if err := ask(); !errors.Is(err, selector.ErrUnknownService) {
			t.Fatal(err)
		}
		for i := range 128 { // as many as are watched
			time.Sleep(time.Microsecond)
			_, _ = w.Pick(t.Context(), fmt.Sprint("fake", i))
		}
		synctest.Wait()
		if n := b.watching["user"]; n != 0 {
			t.Fatal("it is still watched")
		}
		b.write("user", instance("a", home))
		begun := b.begun.Load()
		for range 100 {
			if err := ask(); !errors.Is(err, selector.ErrUnknownService) {
				t.Fatalf("error %v, want ErrUnknownService", err)
			}
		}
		if got := b.begun.Load(); got != begun {
			t.Errorf("the registry was asked %d times", got-begun)
		}
		time.Sleep(time.Second)
		if err := ask(); err != nil {
			t.Errorf("a second later: %v", err)
		}
	})
}

// An instance that is the first of its service is picked at once while picks ask for it,
// however long that takes.
func TestTheFirstInstanceOfAServiceIsFoundAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		w := newWorld(t, selector.Options{Source: b})
		for range 100 {
			if _, err := w.try(); !errors.Is(err, selector.ErrUnknownService) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		if got := b.begun.Load(); got != 1 {
			t.Errorf("%d watches were begun of a name that is asked for all the time", got)
		}
		b.write("user", instance("a", home))
		synctest.Wait()
		if _, err := w.try(); err != nil {
			t.Error(err)
		}
	})
}

// What a zone shares about a service outlasts that all of its instances drain, or leave, for
// a moment.
func TestSharingOutlastsAnEmptyList(t *testing.T) {
	const callers = 20
	synctest.Test(t, func(t *testing.T) {
		board, shared := newBoard(), newBus()
		var near distances
		var all, draining []events.Entry
		for i := range 3 {
			name := fmt.Sprint("i", i)
			all = append(all, near.at(name, home, time.Millisecond))
			draining = append(draining, near.at(name, home, time.Millisecond, status(events.Draining)))
		}
		board.write("user", all...)
		var ws []*world
		for range callers {
			w := newWorld(t, sharing(shared, selector.Options{Source: board, Latency: latency.Options{Dial: near.dial}}))
			w.pick()
			ws = append(ws, w)
		}
		probes := func() (n uint64) {
			for _, w := range ws {
				n += w.Stats().Latency.Probes
			}
			return n
		}
		perMinute := func() float64 {
			time.Sleep(time.Minute) // first probes
			before := probes()
			time.Sleep(2 * time.Minute)
			return float64(probes()-before) / 2 / 3
		}
		before := perMinute()
		for name, list := range map[string][]events.Entry{"drained": draining, "was empty": nil} {
			board.write("user", list...)
			time.Sleep(5 * time.Second)
			board.write("user", all...)
			for _, w := range ws {
				synctest.Wait()
				w.pick()
			}
			if after := perMinute(); after > before*1.3 {
				t.Errorf("after all %s an instance gets %.0f probes a minute, %.0f before", name, after, before)
			}
		}
	})
}
