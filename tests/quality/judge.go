package main

import (
	"context"
	"math"
	"slices"
	"strconv"

	"github.com/proxima-discovery/proxima/pkg/selector"
)

// tie is how many milliseconds apart two instances may be and still be
// equally near.
const tie = 1e-9

// tally is how good some picks were.
type tally struct {
	picks, right, unreachable int
	stretch                   []float64 // of the picks that can be reached
	regret                    float64   // their sum, milliseconds
}

// result is what happened in one world.
type result struct {
	picks, first       tally
	slices             []tally
	sources            map[string]int // of the distances that picks were made for
	callers, instances int

	// Per caller, or instance, and minute.
	probes, probesLast     float64
	changes                float64
	received, receivedMost float64
	messages, messageBytes float64
	exchanges              float64
}

// add judges one pick by the round trips to expect: the truth.
func (t *tally) add(truth *matrix, node int, picked *instance, all []*instance) {
	nearest := math.Inf(1)
	for _, in := range all {
		if ms, ok := truth.expected(node, in.node); ok {
			nearest = min(nearest, ms)
		}
	}
	if math.IsInf(nearest, 1) {
		return // there is nothing that it could pick
	}
	t.picks++
	ms, ok := truth.expected(node, picked.node)
	if !ok {
		t.unreachable++
		return
	}
	if ms <= nearest+tie {
		t.right++
	}
	t.stretch = append(t.stretch, ms/nearest)
	t.regret += ms - nearest
}

func (t *tally) merge(o tally) {
	t.picks += o.picks
	t.right += o.right
	t.unreachable += o.unreachable
	t.stretch = append(t.stretch, o.stretch...)
	t.regret += o.regret
}

func (t *tally) success() float64 { return ratio(float64(t.right), t.picks) }

// regretMean is in milliseconds.
func (t *tally) regretMean() float64 { return ratio(t.regret, len(t.stretch)) }

// percentile of the stretch, 0 of none.
func (t *tally) percentile(p float64) float64 {
	if len(t.stretch) == 0 {
		return 0
	}
	slices.Sort(t.stretch)
	return t.stretch[max(int(math.Ceil(p/100*float64(len(t.stretch))))-1, 0)]
}

func ratio(sum float64, n int) float64 {
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}

// judge makes one pick of every caller for each service, at the end of a
// slice, and compares it with the slice that it is judged by.
func (w *world) judge(ctx context.Context, slice int) error {
	by := slice
	if len(w.data.slices) > 1 {
		by += w.ahead
	}
	if by >= len(w.data.slices) {
		return nil
	}
	var t tally
	for _, c := range w.callers {
		for _, service := range c.services {
			in, err := c.call(ctx, service)
			if err != nil {
				return err
			}
			t.add(w.data.slices[by], c.node, in, w.of(service))
			if err := w.explain(ctx, c, in); err != nil {
				return err
			}
		}
	}
	w.result.picks.merge(t)
	w.result.slices = append(w.result.slices, t)
	return nil
}

// explain notes what the distance was known from for which an instance was
// picked.
func (w *world) explain(ctx context.Context, c *caller, in *instance) error {
	e, err := c.selector.Explain(ctx, selector.Request{Service: in.record.Service})
	if err != nil {
		return err
	}
	for _, candidate := range e.Instances {
		if candidate.ID == in.record.ID {
			w.result.sources[candidate.DistanceSource]++
		}
	}
	return nil
}

// of are the instances of a service.
func (w *world) of(service string) []*instance {
	i := slices.Index(w.names, service)
	return w.instances[i*w.candidates : (i+1)*w.candidates]
}

// firstPicks judges picks of callers that have measured nothing.
// Where there are callers to ask, that is a new process on every node, which
// calls what its neighbours call; else every caller calls the services that
// no caller on its node has called.
func (w *world) firstPicks(ctx context.Context) error {
	truth := w.now.Load()
	if w.newcomers() {
		for i := 0; i < len(w.callers); i += w.callersPerNode {
			if err := w.newcomer(ctx, truth, w.callers[i]); err != nil {
				return err
			}
		}
		return nil
	}
	for _, c := range w.callers {
		for _, service := range w.names {
			if slices.Contains(c.services, service) {
				continue
			}
			in, err := c.call(ctx, service)
			if err != nil {
				return err
			}
			w.result.first.add(truth, c.node, in, w.of(service))
		}
	}
	return nil
}

func (w *world) newcomer(ctx context.Context, truth *matrix, neighbour *caller) error {
	c := &caller{w: w, node: neighbour.node}
	defer c.close()
	if err := c.open(ctx, "new"+strconv.Itoa(c.node)); err != nil {
		return err
	}
	service := neighbour.services[w.random.IntN(len(neighbour.services))]
	in, err := c.call(ctx, service)
	if err != nil {
		return err
	}
	w.result.first.add(truth, c.node, in, w.of(service))
	return nil
}
