package selector_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// board is a source of many services. It is empty until it is written to.
type board struct {
	mu       sync.Mutex
	entries  map[string][]events.Entry
	changed  chan struct{} // closed by a change
	watching map[string]int
	begun    atomic.Int64
}

func newBoard() *board {
	return &board{entries: map[string][]events.Entry{}, changed: make(chan struct{}), watching: map[string]int{}}
}

func (b *board) write(service string, entries ...events.Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries[service] = sortEntries(entries)
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) Watch(ctx context.Context, service string, apply func(events.Snapshot)) error {
	b.begun.Add(1)
	b.mu.Lock()
	b.watching[service]++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.watching[service]--; b.watching[service] == 0 {
			delete(b.watching, service)
		}
	}()
	for ctx.Err() == nil {
		b.mu.Lock()
		entries, changed := b.entries[service], b.changed
		b.mu.Unlock()
		apply(events.Snapshot{Service: service, Entries: entries})
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

// watches is the number of watched services. It fails if one is watched twice.
func (b *board) watches(t *testing.T) int {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for service, n := range b.watching {
		if n > 1 {
			t.Errorf("%s is watched %d times", service, n)
		}
	}
	return len(b.watching)
}

func TestTheFirstPickWaitsForTheFirstSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		begin := time.Now()
		var picks sync.WaitGroup
		for range 10 {
			picks.Go(func() {
				p, err := w.Pick(t.Context(), "user")
				if err != nil || p.ID != "a" {
					t.Errorf("picked %v, %v, want a", p.Instance, err)
				}
				if took := time.Since(begin); took != time.Second {
					t.Errorf("waited %v, want 1s", took)
				}
			})
		}
		time.Sleep(time.Second)
		w.lists <- events.Snapshot{Service: "user", Entries: []events.Entry{instance("a", home)}}
		picks.Wait()
	})
}

func TestTheWaitForTheFirstSnapshotIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{})
		for _, tt := range []struct {
			name  string
			limit time.Duration // of the caller; 0: none
			want  time.Duration
			text  string
		}{
			{"by the option, without a deadline", 0, 5 * time.Second, `selector: the registry has not answered yet after 5s, nothing is known of service "user"`},
			{"by the option, before the deadline", time.Minute, 5 * time.Second, `selector: the registry has not answered yet after 5s, nothing is known of service "user"`},
			{"by the context", time.Second, time.Second, `selector: the registry has not answered yet, nothing is known of service "user": context deadline exceeded`},
		} {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if tt.limit > 0 {
				ctx, cancel = context.WithTimeout(t.Context(), tt.limit)
			}
			for name, ask := range map[string]func() error{
				"Pick": func() error { _, err := w.Pick(ctx, "user"); return err },
				"Wait": func() error {
					_, err := w.PickFor(ctx, selector.Request{Service: "user", Wait: true})
					return err
				},
				"Do":      func() error { return w.Do(ctx, "user", nil) },
				"Explain": func() error { _, err := w.Explain(ctx, selector.Request{Service: "user"}); return err },
			} {
				if ctx.Err() != nil {
					break // they would not wait
				}
				begin := time.Now()
				err := ask()
				if took := time.Since(begin); took != tt.want {
					t.Errorf("%s, %s: waited %v, want %v", tt.name, name, took, tt.want)
				}
				if !errors.Is(err, selector.ErrNoSnapshot) || err.Error() != tt.text {
					t.Errorf("%s, %s: error %q, want %q", tt.name, name, err, tt.text)
				}
				// A caller takes it for its own time-out only if it is one.
				if got, want := errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil; got != want {
					t.Errorf("%s, %s: it is DeadlineExceeded: %v, want %v", tt.name, name, got, want)
				}
			}
			cancel()
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Explain(ctx, selector.Request{Service: "user"}); !errors.Is(err, selector.ErrNoSnapshot) || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want ErrNoSnapshot and context.Canceled", err)
		}
	})
}

func TestErrorsDifferForUnknownUnusableAndUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.write("sick", instance("a", home, status(events.NotReady)))
		w := newWorld(t, selector.Options{Source: b})
		ask := map[string]func(service string) error{
			"Pick": func(service string) error { _, err := w.Pick(t.Context(), service); return err },
			"PickFor": func(service string) error {
				_, err := w.PickFor(t.Context(), selector.Request{Service: service})
				return err
			},
			"Do": func(service string) error {
				return w.Do(t.Context(), service, func(context.Context, *events.Instance) error {
					t.Error("called")
					return nil
				})
			},
			"Explain": func(service string) error {
				_, err := w.Explain(t.Context(), selector.Request{Service: service})
				if service == "sick" && err == nil {
					return &selector.NoInstanceError{} // carries the counts
				}
				return err
			},
		}
		for name, f := range ask {
			if err := f("nobody"); !errors.Is(err, selector.ErrUnknownService) || err.Error() != `selector: unknown service "nobody"` {
				t.Errorf("%s: error %v, want ErrUnknownService", name, err)
			}
			if err := f("sick"); !errors.Is(err, selector.ErrNoInstance) || errors.Is(err, selector.ErrUnknownService) {
				t.Errorf("%s: error %v, want ErrNoInstance", name, err)
			}
			for _, bad := range []string{"", "a.b", "*", ">", "Ä", "a b", "A", "-a", strings.Repeat("a", 64), "$SYS"} {
				err := f(bad)
				if _, ok := errors.AsType[*events.FieldError](err); !ok {
					t.Errorf("%s(%q): error %v, want a FieldError", name, bad, err)
				}
			}
		}
		if got := w.Close(); got != nil {
			t.Errorf("Close: %v", got)
		}
		for name, f := range ask {
			if err := f("sick"); !errors.Is(err, selector.ErrClosed) {
				t.Errorf("%s after Close: error %v, want ErrClosed", name, err)
			}
		}
		if b.watches(t) != 0 {
			t.Error("something is still watched")
		}
	})
}

func TestNoInstanceErrorCountsEveryCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{},
			instance("a", home, status(events.NotReady)), instance("b", home, status(events.NotReady), suspect),
			instance("c", home), instance("d", home, status(events.Draining)), instance("e", home, status(events.Draining)),
			instance("f", farAway, suspect), instance("g", farAway), instance("h", farAway, endpoint(events.GRPC, "10.0.0.1:1")),
		)
		w.call("c", errRefused)
		w.call("e", errRefused)
		time.Sleep(time.Second)
		_, err := w.try(selector.Request{Protocol: events.NATS, Avoid: []string{"c", "d", "e", "f", "g"}})
		none, ok := errors.AsType[*selector.NoInstanceError](err)
		if !ok {
			t.Fatalf("error %v, want a NoInstanceError", err)
		}
		want := []selector.Circle{
			{Name: "zone", Instances: 5, Open: 1, Draining: 2, NotReady: 2},
			{Name: "elsewhere", Instances: 3, Usable: 1, Suspect: 1, OtherProtocol: 1},
		}
		if len(none.Circles) != 2 || none.Circles[0] != want[0] || none.Circles[1] != want[1] || none.Avoided != 5 || none.Service != "user" {
			t.Errorf("%+v, want %+v and 5 avoided", none, want)
		}
		text := "selector: no usable instance of user: zone has 5, 1 with an open breaker, 2 draining, 2 not ready; " +
			"elsewhere has 3, 1 usable, 1 suspect, 1 with no nats endpoint; 5 excluded or tried before"
		if err.Error() != text {
			t.Errorf("error %q, want %q", err, text)
		}
	})
}

func TestAServiceThatBecomesKnownLaterIsPicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		w := newWorld(t, selector.Options{Source: b})
		if _, err := w.try(); !errors.Is(err, selector.ErrUnknownService) {
			t.Fatalf("error %v, want ErrUnknownService", err)
		}
		b.write("user", instance("a", home))
		synctest.Wait()
		if got := w.picks(3)["a"]; got != 3 {
			t.Errorf("%d of 3 picks", got)
		}
		b.write("user")
		synctest.Wait()
		if _, err := w.try(); !errors.Is(err, selector.ErrUnknownService) {
			t.Errorf("error %v after the last has left, want ErrUnknownService", err)
		}
	})
}

func TestUnknownNamesCostNoMemoryForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		for i := range 50 {
			b.write(fmt.Sprint("real", i), instance("a", home))
		}
		w := newWorld(t, selector.Options{Source: b})
		for i := range 50 {
			if _, err := w.Pick(t.Context(), fmt.Sprint("real", i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 2000 {
			time.Sleep(time.Microsecond)
			if _, err := w.Pick(t.Context(), fmt.Sprint("fake", i)); !errors.Is(err, selector.ErrUnknownService) {
				t.Fatalf("fake%d: %v", i, err)
			}
			if i%3 == 0 { // one that is picked from all the time
				if _, err := w.Pick(t.Context(), "soon"); !errors.Is(err, selector.ErrUnknownService) {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		if got := b.watches(t); got > 50+128 {
			t.Errorf("%d services are watched after 2000 unknown names, want at most 178", got)
		}
		if begun := b.begun.Load(); begun != 50+2000+1 {
			t.Errorf("%d watches were begun, want 2051: what is asked for all the time is kept", begun)
		}
		if got := len(w.Stats().Services); got > 50+128 {
			t.Errorf("stats of %d services", got)
		}
		// Services that exist, or come to exist, are still picked from.
		b.write("soon", instance("a", home))
		b.write("fake3", instance("a", home))
		time.Sleep(time.Second) // fake3 is not watched any more, and remembered as unknown
		synctest.Wait()
		for _, name := range []string{"real0", "real49", "soon", "fake3"} {
			if _, err := w.Pick(t.Context(), name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Services that evict each other while the registry does not answer must not return
// ErrClosed.
func TestAPickThatWaitsSurvivesAFloodOfNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		answer := make(chan struct{})
		w := newWorld(t, selector.Options{Source: watching(func(ctx context.Context, service string, apply func(events.Snapshot)) error {
			select {
			case <-answer:
				return b.Watch(ctx, service, apply)
			case <-ctx.Done():
				return ctx.Err()
			}
		})})
		b.write("user", instance("a", home))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var waiting sync.WaitGroup
		waiting.Go(func() {
			p, err := w.Pick(ctx, "user")
			if err != nil {
				t.Errorf("user: %v", err)
				return
			}
			p.Done(nil)
		})
		synctest.Wait()
		var refused atomic.Int64
		for i := range 1500 {
			waiting.Go(func() {
				_, err := w.Pick(ctx, fmt.Sprint("fake", i))
				switch {
				case errors.Is(err, selector.ErrNoSnapshot):
					refused.Add(1)
				case !errors.Is(err, selector.ErrUnknownService):
					t.Errorf("fake%d: %v", i, err)
				}
			})
		}
		time.Sleep(time.Second)
		close(answer)
		waiting.Wait()
		if got := refused.Load(); got != 1500-1023 {
			t.Errorf("%d names were refused, want 477: 1024 may wait", got)
		}
		if _, err := w.Pick(ctx, "another"); !errors.Is(err, selector.ErrUnknownService) {
			t.Errorf("another: %v", err)
		}
		synctest.Wait()
		if got := b.watches(t); got > 129 {
			t.Errorf("%d services are watched, want at most 129", got)
		}
	})
}

func TestASourceThatEndsLeavesTheLastView(t *testing.T) {
	for _, end := range []error{nil, errors.New("the disk is gone")} {
		t.Run(fmt.Sprint(end), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log testkit.Output
				w := newWorld(t, selector.Options{
					Logger: log.Logger(slog.LevelInfo),
					Source: watching(func(_ context.Context, service string, apply func(events.Snapshot)) error {
						apply(events.Snapshot{Service: service, Entries: []events.Entry{instance("a", home)}})
						return end
					}),
				})
				w.picks(3)
				synctest.Wait()
				if said := strings.Contains(log.String(), "the source of instances has ended"); said != (end != nil) {
					t.Errorf("log: %s", log.String())
				}
			})
		})
	}
}
