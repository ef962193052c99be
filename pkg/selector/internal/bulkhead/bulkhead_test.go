package bulkhead_test

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/bulkhead"
)

// look makes one look at calls that all took the same time.
func look(l *bulkhead.Limit, n, rejects uint64, took time.Duration, full bool) int {
	return l.Look(bulkhead.Sample{Ended: n, Rejects: rejects, Measured: n - rejects, Busy: time.Duration(n-rejects) * took, Full: full}, 10*time.Millisecond, time.Millisecond, 100)
}

func TestALimitGrowsOnlyWhileItMattersAndCallsAreFast(t *testing.T) {
	l := bulkhead.NewLimit(0)
	if got := look(l, 100, 0, 11*time.Millisecond, false); got != bulkhead.First {
		t.Errorf("%d when it does not matter", got)
	}
	if got := look(l, 100, 0, 11*time.Millisecond, true); got <= bulkhead.First {
		t.Errorf("%d when it matters", got)
	}
	for range 50 {
		look(l, 100, 0, 11*time.Millisecond, true)
	}
	if got := look(l, 100, 0, 11*time.Millisecond, true); got != 100 {
		t.Errorf("%d, want its bound", got)
	}
	if got := look(l, 100, 0, 200*time.Millisecond, false); got != 100 {
		t.Errorf("%d as others make calls slow", got)
	}
	for range 50 {
		look(l, 100, 0, 200*time.Millisecond, true)
	}
	if got := look(l, 100, 0, 200*time.Millisecond, true); got < bulkhead.Least || got > 10 {
		t.Errorf("%d under overload, want about the least", got)
	}
}

func TestRejectsLowerALimitHoweverFastTheyAre(t *testing.T) {
	l := bulkhead.NewLimit(80)
	if got := look(l, 100, 100, 0, true); got >= 80 {
		t.Errorf("%d after rejects", got)
	}
	for range 50 {
		look(l, 100, 10, time.Millisecond, true)
	}
	if got := look(l, 100, 10, time.Millisecond, true); got != bulkhead.Least {
		t.Errorf("%d after many", got)
	}
}

func TestALimitStaysWithoutADurationToCompareWith(t *testing.T) {
	l := bulkhead.NewLimit(0)
	s := bulkhead.Sample{Ended: 100, Measured: 100, Busy: time.Second, Full: true}
	if got := l.Look(s, 0, 0, 100); got != bulkhead.First {
		t.Error(got)
	}
	if got := l.Look(bulkhead.Sample{}, 0, 0, 1); got != 1 {
		t.Errorf("%d, want the bound 1", got)
	}
}

// ready says which calls are woken, and takes that from them.
func ready(all ...*bulkhead.Waiter) (woken []int) {
	for i, w := range all {
		select {
		case <-w.Ready:
			woken = append(woken, i)
		default:
		}
	}
	return woken
}

func want(t *testing.T, what string, got []int, want ...int) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: woken %v, want %v", what, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: woken %v, want %v", what, got, want)
		}
	}
}

func TestAPlaceThatACallCannotUseGoesToTheNextOfAnotherKind(t *testing.T) {
	var q bulkhead.Queue
	a, first := q.Join("a", false, 4)
	b, second := q.Join("a", false, 4)
	c, other := q.Join("b", false, 4)
	d, _ := q.Join("a", false, 4)
	if full, _ := q.Join("a", false, 4); full != nil || !first || second || !other || !q.Waits("b") || q.Waits("c") {
		t.Errorf("%v: first %v, %v, %v", full, first, second, other)
	}
	q.Wake()
	want(t, "one place", ready(a, b, c, d), 0)
	q.Pass(a)
	want(t, "that a cannot use", ready(a, b, c, d), 2)
	q.Pass(c)
	want(t, "that c cannot use", ready(a, b, c, d), 3)
	q.Wake()
	q.Wake()
	q.Leave(a, false) // it gave up although it was woken
	want(t, "what a left", ready(b, c, d), 0, 1)
	q.Leave(b, true)
	want(t, "when b has a place", ready(c, d))
	q.WakeAll()
	want(t, "all", ready(c, d), 0)
	q.Leave(c, true)
	want(t, "as c had one", ready(d), 0)
	q.Leave(d, true)
	if q.Waiting() != 0 || q.Waits("a") || q.Waits("b") {
		t.Errorf("%d wait", q.Waiting())
	}
	q.Wake()
}
