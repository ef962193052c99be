package selector_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestCloseMayBeCalledTwiceAndDuringCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		p := w.pick()
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				for {
					p, err := w.Pick(t.Context(), "user")
					if errors.Is(err, selector.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Millisecond)
					if i%4 == 0 {
						p.Done(errRefused)
					} else {
						p.Done(nil)
					}
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		for range 3 {
			all.Go(func() {
				if err := w.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		p.Done(errRefused) // late, and harmless
	})
}

func TestCloseEndsWaitingPicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := w.Pick(t.Context(), "user"); !errors.Is(err, selector.ErrClosed) {
				t.Errorf("error %v, want ErrClosed", err)
			}
		})
		synctest.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		waiting.Wait()
	})
}

func TestCloseWaitsForATableThatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{}, several(3)...)
		w.call("i0", errRefused) // builds a new table at once
		w.call("i1", errRefused) // schedules another
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestNoInstanceIsPickedAfterClose(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(3)...)
				w.picks(10)
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				for range 2 {
					if _, err := w.Pick(t.Context(), "user"); !errors.Is(err, selector.ErrClosed) {
						t.Errorf("error %v, want ErrClosed", err)
					}
				}
				if got := w.Stats(); got.Services != nil {
					t.Errorf("stats %+v, want none", got)
				}
			})
		})
	}
}

// A breaker does not turn half-open after its instance has left or the selector was
// closed.
func TestNoHookIsCalledForAnInstanceThatLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(w *world)
	}{
		{"left", func(w *world) { w.list() }},
		{"restarted", func(w *world) { w.list(several(2, incarnation("2"))...) }},
		{"closed", func(w *world) { _ = w.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var heard atomic.Int64
				o := selector.Options{}
				o.Breaker.OnChange = func(breaker.Key, breaker.State, breaker.State) { heard.Add(1) }
				w := start(t, o, several(2)...)
				w.call("i0", errRefused)
				w.call("i1", errRefused)
				tt.end(w)
				time.Sleep(time.Minute)
				if got := heard.Load(); got != 2 {
					t.Errorf("the hook was called %d times, want twice", got)
				}
			})
		})
	}
}

func TestTheContextOfNewBoundsOnlyNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBoard()
		s, err := selector.New(ctx, nil, selector.Options{Source: b, Location: home})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		cancel()
		b.write("user", instance("a", home))
		p, err := s.Pick(t.Context(), "user")
		if err != nil || p.ID != "a" {
			t.Errorf("picked %v, %v, want a", p.Instance, err)
		}
	})
}
