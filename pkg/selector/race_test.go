package selector_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

// All at once: calls of all kinds, lists that change, instances that fail and come back,
// distances that change. At the end no call is in flight.
func TestManyCallersAndChangesAtOnce(t *testing.T) {
	for _, strategy := range selector.Strategies() {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stress(t, strategy)
			})
		})
	}
}

func stress(t *testing.T, strategy selector.Strategy) {
	o := selector.Options{Strategy: strategy, Retry: selector.Retry{Budget: 10, Backoff: time.Millisecond}}
	o.Breaker.OpenFor, o.Breaker.TrialTimeout = 50*time.Millisecond, 50*time.Millisecond
	o.Latency.Interval, o.Latency.Fresh, o.Latency.Budget = 100*time.Millisecond, time.Second, -1
	w := newWorld(t, o)
	all := make([]events.Entry, 30)
	for i := range all {
		all[i] = w.at(fmt.Sprintf("i%02d", i), places[i%3], time.Millisecond)
	}
	w.list(all...)

	var callers, changers sync.WaitGroup
	var calls, failed atomic.Int64
	for i := range 12 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 300 {
				calls.Add(1)
				if err := w.randomCall(t.Context(), r); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	stop := make(chan struct{})
	change := func(pause time.Duration, f func(r *rand.Rand)) {
		changers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(pause), 2))
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause):
					f(r)
				}
			}
		})
	}
	change(7*time.Millisecond, func(r *rand.Rand) { w.lists <- events.Snapshot{Service: "user", Entries: shuffled(r, all)} })
	change(3*time.Millisecond, func(r *rand.Rand) {
		w.set(fmt.Sprintf("i%02d.example:80", r.IntN(30)), time.Duration(1+r.IntN(40))*100*time.Microsecond)
	})
	change(5*time.Millisecond, func(*rand.Rand) {
		_, _ = w.Explain(t.Context(), selector.Request{Service: "user", From: &farAway})
		w.Stats()
	})
	callers.Wait()
	close(stop)
	changers.Wait()
	w.list(all...)
	for _, c := range w.explain().Instances {
		if c.InFlight != 0 {
			t.Errorf("%s: %d calls in flight at the end", c.ID, c.InFlight)
		}
	}
	if f, n := failed.Load(), calls.Load(); n != 3600 || f > n/2 {
		t.Errorf("%d of %d calls failed", f, n)
	}
}

// shuffled is a part of all, some of them changed.
func shuffled(r *rand.Rand, all []events.Entry) []events.Entry {
	var part []events.Entry
	for _, e := range all {
		switch r.IntN(8) {
		case 0:
			continue
		case 1, 2, 3:
			in := *e.Instance
			in.Weight = 1 + r.IntN(500)
			in.Status = []events.Status{events.Up, events.Up, events.Draining, events.NotReady}[r.IntN(4)]
			in.Incarnation = fmt.Sprint(1 + r.IntN(2))
			e = events.Entry{Instance: &in, Suspect: r.IntN(4) == 0}
		}
		part = append(part, e)
	}
	return part
}

func (w *world) randomCall(ctx context.Context, r *rand.Rand) error {
	answer := func() error {
		time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		switch r.IntN(12) {
		case 0:
			return errRefused
		case 1, 2:
			return errCall
		case 3:
			return context.Canceled
		case 4:
			return selector.Permanent(errCall)
		}
		return nil
	}
	ask := selector.Request{Service: "user", Key: fmt.Sprint(r.IntN(50)), NonIdempotent: r.IntN(2) == 0}
	switch r.IntN(4) {
	case 0:
		ask.Protocol = events.TCP
	case 1:
		ask.From = &places[r.IntN(len(places))]
	case 2:
		ask.Avoid = []string{fmt.Sprintf("i%02d", r.IntN(30))}
	}
	switch r.IntN(5) {
	case 0:
		p, err := w.Pick(ctx, "user")
		p.Done(answer())
		return err
	case 1:
		p, err := w.PickFor(ctx, ask)
		p.DoneAfter(answer(), time.Duration(1+r.IntN(1000))*time.Microsecond)
		p.Done(nil)
		return err
	case 2:
		return w.DoFor(ctx, ask, func(context.Context, *selector.Pick) error { return answer() })
	case 3:
		return w.DoFor(ctx, ask, func(_ context.Context, p *selector.Pick) error {
			err := answer()
			p.DoneAfter(err, time.Millisecond)
			return err
		})
	default:
		ctx, cancel := context.WithTimeout(ctx, time.Duration(r.IntN(3000))*time.Microsecond)
		defer cancel()
		err := w.Do(ctx, "user", func(ctx context.Context, _ *events.Instance) error { return errors.Join(answer(), ctx.Err()) })
		return err
	}
}
