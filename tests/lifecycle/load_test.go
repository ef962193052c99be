//go:build faults && linux

package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// perCall bounds a call with all its attempts.
const perCall = 10 * time.Second

// load is a steady stream of calls, and what became of them.
type load struct {
	stop chan struct{}
	ends sync.WaitGroup

	mu       sync.Mutex // guards what follows
	calls    int
	failures []string
	took     []time.Duration
	attempts int
	inVain   map[string][]time.Time // by instance
	answered map[string][]time.Time
}

// begin calls so many times a second, whether or not answers come, until end.
func begin(t testing.TB, perSecond int, call func(ctx context.Context, i int, tried func(id string, err error)) error) *load {
	l := &load{stop: make(chan struct{}), inVain: map[string][]time.Time{}, answered: map[string][]time.Time{}}
	l.ends.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(perSecond))
		defer ticker.Stop()
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			case <-ticker.C:
			}
			l.ends.Go(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), perCall)
				defer cancel()
				began := time.Now()
				err := call(ctx, i, l.tried)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.calls++
				l.took = append(l.took, time.Since(began))
				if err != nil {
					l.failures = append(l.failures, err.Error())
				}
			})
		}
	})
	t.Cleanup(func() { l.end() })
	return l
}

func (l *load) tried(id string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts++
	if err != nil {
		l.inVain[id] = append(l.inVain[id], time.Now())
	} else {
		l.answered[id] = append(l.answered[id], time.Now())
	}
}

// answers waits until an instance has answered so many calls since a time.
func (l *load) answers(t testing.TB, id string, n int, since time.Time) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d answers of %s", n, id), func() bool { return l.count(l.answered, id, since) >= n })
}

// count is how many of an instance's attempts ended since a time.
func (l *load) count(of map[string][]time.Time, id string, since time.Time) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	first, _ := slices.BinarySearchFunc(of[id], since, time.Time.Compare)
	return len(of[id]) - first
}

// last is when an attempt on an instance ended that way the last time, as a
// time after another one; 0 for none after it.
func (l *load) last(of map[string][]time.Time, id string, after time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(of[id]); n > 0 {
		return max(0, of[id][n-1].Sub(after))
	}
	return 0
}

// end ends the calls and waits for them. It may be called twice.
func (l *load) end() {
	l.mu.Lock()
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.mu.Unlock()
	l.ends.Wait()
}

// check ends the calls and fails the test if one failed. It logs what they
// were like, and returns the retries: attempts beyond one for each call.
func (l *load) check(t testing.TB, what string) (retries int) {
	t.Helper()
	l.end()
	slices.Sort(l.took)
	if len(l.took) == 0 {
		t.Fatalf("%s: no calls", what)
	}
	at := func(share float64) time.Duration {
		return l.took[int(share*float64(len(l.took)-1))].Round(10 * time.Microsecond)
	}
	retries = max(0, l.attempts-l.calls)
	t.Logf("%s: %d calls, %d failed, %d retries; p50 %v, p99 %v, longest %v", what, l.calls, len(l.failures), retries, at(0.5), at(0.99), at(1))
	if n := len(l.failures); n > 0 {
		t.Errorf("%s: %d of %d calls failed: %q", what, n, l.calls, l.failures[:min(n, 5)])
	}
	return retries
}

// longerThan is how many calls took longer. The calls have ended.
func (l *load) longerThan(d time.Duration) (n int) {
	for _, took := range l.took {
		if took > d {
			n++
		}
	}
	return n
}
