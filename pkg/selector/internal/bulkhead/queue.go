package bulkhead

import (
	"sync"
	"sync/atomic"
)

// Queue is the calls that wait for a place. The first one of a kind that came is the first
// one that tries; calls of one kind may go to the same instances, and those of another kind
// need not wait for them.
type Queue struct {
	waiting atomic.Int64

	mu          sync.Mutex
	first, last *Waiter
	kinds       map[any]int // how many wait, by kind
}

// Waiter is a call that waits. When Ready has something the call tries to get its place,
// and then calls [Queue.Leave] or [Queue.Pass].
type Waiter struct {
	Ready chan struct{}

	kind       any
	picky      bool
	chained    bool
	prev, next *Waiter
}

// Waiting is how many calls wait.
func (q *Queue) Waiting() int { return int(q.waiting.Load()) }

// Waits reports whether a call of a kind waits.
func (q *Queue) Waits(kind any) bool {
	if q.waiting.Load() == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.kinds[kind] > 0
}

// Join puts a call at the end, unless most wait already: then it returns nil. picky says that
// the call excludes instances that others of its kind may take. If it is the first of its
// kind it must try at once: a place may have become free before it was in the queue.
func (q *Queue) Join(kind any, picky bool, most int) (w *Waiter, first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting.Load() >= int64(most) {
		return nil, false
	}
	w = &Waiter{Ready: make(chan struct{}, 1), kind: kind, picky: picky, prev: q.last}
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
	if q.kinds == nil {
		q.kinds = make(map[any]int)
	}
	q.kinds[kind]++
	q.waiting.Add(1)
	return w, q.kinds[kind] == 1
}

// Leave takes a call out, once. took says that it has got a place. What it was woken for and
// did not use is for the next one.
func (q *Queue) Leave(w *Waiter, took bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := w.next
	if w.prev == nil {
		q.first = next
	} else {
		w.prev.next = next
	}
	if next == nil {
		q.last = w.prev
	} else {
		next.prev = w.prev
	}
	if q.kinds[w.kind]--; q.kinds[w.kind] == 0 {
		delete(q.kinds, w.kind)
	}
	q.waiting.Add(-1)
	select {
	case <-w.Ready:
		wake(next)
	default:
		if took && w.chained {
			wake(next)
		}
	}
}

// Pass is for a call that was woken and found no place: there may be one for a call of
// another kind behind it.
func (q *Queue) Pass(w *Waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.chained = false
	next := w.next
	for ; next != nil && next.kind == w.kind && !w.picky; next = next.next {
		next.chained = false
	}
	wake(next)
}

// Wake wakes the first call, as one place has become free.
func (q *Queue) Wake() {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	wake(q.first)
}

// WakeAll wakes one after the other while there are places.
func (q *Queue) WakeAll() {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for w := q.first; w != nil; w = w.next {
		w.chained = true
	}
	wake(q.first)
}

// wake wakes the first one from w on that is not woken.
func wake(w *Waiter) {
	for ; w != nil; w = w.next {
		select {
		case w.Ready <- struct{}{}:
			return
		default:
		}
	}
}
