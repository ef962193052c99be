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
	cancel  []context.CancelCauseFunc

	once     sync.Once
	panicked any // the first panic of call
}

// result is how one of the attempts has ended.
type result struct {
	pick Pick
	err  error
}

// attempt makes one attempt, or two if the request wants that. It returns the pick of the
// one that counts.
func (t *tries) attempt(ctx context.Context, p Pick, call func(context.Context, *Pick) error) (Pick, error) {
	after := time.Duration(t.svc.P95.Load())
	if !t.request.Hedge || after == 0 || !t.more() {
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
					t.tried(first.pick)
				}
				h.end()
				return r.pick, r.err
			}
			first = &r
		case <-timer.C:
			other := *t.request
			other.tried = append(slices.Clip(other.tried), p.node)
			if !t.svc.budget.retry(t.now()) {
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
	o := h.opts.Retry.Classify(err)
	return o != Success && o != Answer
}

// begin begins an attempt.
func (h *hedge) begin(ctx context.Context, p Pick) {
	ctx, cancel := context.WithCancelCause(ctx)
	h.cancel = append(h.cancel, cancel)
	h.running++
	go func() { // ends when call returns; end waits for it
		r := result{p, context.Canceled}
		defer func() {
			if what := recover(); what != nil {
				h.once.Do(func() { h.panicked = what })
			}
			h.results <- r
		}()
		r.err = r.pick.run(ctx, h.call)
	}()
}

// end cancels and awaits the attempt that does not count, and passes on a panic.
func (h *hedge) end() {
	for _, cancel := range h.cancel {
		cancel(errHedged)
	}
	for ; h.running > 0; h.running-- {
		<-h.results
	}
	if h.panicked != nil {
		panic(h.panicked)
	}
}
