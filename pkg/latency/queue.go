package latency

import (
	"container/heap"
	"time"
)

// entry is a path's place in one [queue]. A path has one for its next probe
// and one for the expiry of its samples.
type entry struct {
	path  *Path
	due   time.Duration // on the prober's clock
	in    *queue        // nil while not queued
	index int           // in the queue
}

// queue is a heap of entries, the first due in front.
type queue []*entry

// set puts e into q at due, or moves it there.
func (q *queue) set(e *entry, due time.Duration) {
	if e.in != nil && e.in != q {
		e.remove()
	}
	e.due = due
	if e.in == q {
		heap.Fix(q, e.index)
		return
	}
	heap.Push(q, e)
}

// head is the entry that is due first, or nil.
func (q queue) head() *entry {
	if len(q) == 0 {
		return nil
	}
	return q[0]
}

// remove takes e out of the queue it is in, if any.
func (e *entry) remove() {
	if e.in != nil {
		heap.Remove(e.in, e.index)
	}
}

// Len, Less, Swap, Push and Pop are for container/heap.

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	e := x.(*entry)
	e.in, e.index = q, len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.in = nil
	return e
}
