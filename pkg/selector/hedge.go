package selector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// errHedged is why the context of the slower of two attempts ends.
var errHedged = errors.New("selector: another instance answered first")

// hedge is an attempt that becomes two when the first takes long, see [Request.Hedge].
type hedge struct {
	*tries
	call    func(context.Context, *Pick) error
	results chan result // of the attempts that were begun
	running int
	lost    []*lost // of each attempt

	once     sync.Once
	panicked any // the first panic of call
}

// result is how one of the attempts has ended.
type result struct {
	pick Pick
	err  error
	lost *lost
}

type lostKey struct{}

// lost is whether the other attempt of a hedged call counts.
type lost struct {
	mu   sync.Mutex
	is   bool
	tell func()
}

func (l *lost) lose() {
	l.mu.Lock()
	l.is = true
	tell := l.tell
	l.mu.Unlock()
	if tell != nil {
		tell()
	}
}

// OnHedged calls f, once, when ctx is that of an attempt of a hedged call, see
// [Request.Hedge], and another attempt has answered first: then the attempt should end.
// [Pick.Try] does that. There is one f for an attempt.
func OnHedged(ctx context.Context, f func()) {
	l, ok := ctx.Value(lostKey{}).(*lost)
	if !ok {
		return
	}
	l.mu.Lock()
	l.tell = f
	is := l.is
	l.mu.Unlock()
	if is {
		f()
	}
}

// attempt makes one attempt, or two if the request wants that. It returns the pick of the
// one that counts.
func (t *tries) attempt(ctx context.Context, p Pick, call func(context.Context, *Pick) error) (Pick, error) {
	after := time.Duration(t.svc.P95.Load())
	wanted := t.request.Hedge || t.request.MayHedge && t.rules.retry.hedge
	if !wanted || after == 0 || !t.more(&p) {
		err := p.run(ctx, call)
		return p, err
	}
	h := &hedge{tries: t, call: call, results: make(chan result, 2)}
	h.begin(ctx, p)
	timer := time.NewTimer(after)
	defer timer.Stop()
	for first := (*result)(nil); ; {
		select {
		case r := <-h.results:
			h.running--
			if h.running == 0 || !h.fails(r.err) {
				if first != nil && h.fails(r.err) {
					t.tried(first.pick, first.err)
				}
				h.end(r.lost)
				return r.pick, r.err
			}
			first = &r
		case <-timer.C:
			other := *t.request
			other.tried = append(slices.Clip(other.tried), p.node)
			if !t.svc.budget.retry(t.now(), t.rules.retry.budget) {
				continue
			}
			if second, err := t.PickFor(ctx, other); err == nil {
				t.svc.hedges.Add(1)
				h.begin(ctx, second)
			}
		}
	}
}

// fails reports whether another attempt may do better.
func (h *hedge) fails(err error) bool {
	if err == nil {
		return false
	}
	o := h.classify(err)
	return o != Success && o != Answer
}

// begin begins an attempt.
func (h *hedge) begin(ctx context.Context, p Pick) {
	l := &lost{}
	h.lost = append(h.lost, l)
	h.running++
	go func() { // ends when call returns; end waits for it
		r := result{p, context.Canceled, l}
		defer func() {
			if what := recover(); what != nil {
				h.once.Do(func() { h.panicked = what })
			}
			h.results <- r
		}()
		r.err = r.pick.run(context.WithValue(ctx, lostKey{}, l), h.call)
	}()
}

// end ends and awaits the attempt that does not count, and passes on a panic. It leaves
// the other one alone: its answer may still be read.
func (h *hedge) end(counts *lost) {
	for _, l := range h.lost {
		if l != counts {
			l.lose()
		}
	}
	for ; h.running > 0; h.running-- {
		<-h.results
	}
	if h.panicked != nil {
		panic(h.panicked)
	}
}
