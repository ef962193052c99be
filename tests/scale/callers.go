package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// callersConfig is that of a process of callers.
type callersConfig struct {
	URLs   []string // of servers; callers are spread over them
	Groups []group
}

// group is callers that are alike. Each has a connection of its own.
type group struct {
	Kind     kind
	Callers  int
	Service  string // what they watch; empty: everything
	Services int    // if not 0: each watches one of so many services
	Want     int    // instances that make what they know complete
	Patient  bool   // pings are as nats.go has them, see patient
}

type kind string

const (
	views     kind = "views"     // kv.Watch
	selectors kind = "selectors" // selector.Selector
	plain     kind = "plain"     // a bare NATS subscription to the same changes, which counts them
)

// troupe is the callers of this process.
type troupe struct {
	ctx    context.Context
	all    []*caller
	delays delays // from a change to the snapshot, or table, in which it is
	work   sync.WaitGroup
}

// callers is the process.
func callers(data []byte, in *json.Decoder, out *json.Encoder) error {
	var c callersConfig
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := &troupe{ctx: ctx}
	for _, g := range c.Groups {
		for i := range g.Callers {
			one := g
			if g.Services > 0 {
				one.Service = serviceName(i % g.Services)
			}
			t.all = append(t.all, newCaller(t, one, c.URLs[len(t.all)%len(c.URLs)]))
		}
	}
	defer t.work.Wait()
	defer cancel()
	for {
		var q question
		if err := in.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		value, err := t.do(q)
		if err := say(out, value, err); err != nil {
			return err
		}
	}
}

func (t *troupe) do(q question) (any, error) {
	switch q.Do {
	case "start":
		return t.start()
	case "count":
		return t.count(), nil
	case "state":
		return t.state(), nil
	case "delays":
		return t.delays.take(), nil
	case "block":
		return t.all[0].block(q.For)
	case "seen":
		return t.seen(q.Stamp, q.For)
	case "compare":
		return t.compare(q.For)
	}
	return nil, fmt.Errorf("no question %q", q.Do)
}

// started is what "start" answers.
type started struct {
	AllMS float64 // from the begin until the last was ready
	Each  spread  // of one caller, from its own connecting
}

// start has all callers start at once and waits until all are ready.
func (t *troupe) start() (started, error) {
	var each delays
	begin := time.Now()
	var g errgroup.Group
	for _, c := range t.all {
		g.Go(func() error {
			begin := time.Now()
			if err := c.start(t.ctx); err != nil {
				return err
			}
			each.add(time.Since(begin))
			return nil
		})
	}
	err := g.Wait()
	return started{ms(time.Since(begin)), each.take()}, err
}

// state is what "state" answers; "count" leaves out the heap.
type state struct {
	Heap      int64 // bytes alive
	Snapshots uint64
	Gaps      uint64
	Removed   int // instances that were known and are not
	Suspects  int
	Stale     int    // callers that know they may be out of date
	Received  uint64 // messages of plain subscriptions
}

func (t *troupe) count() state {
	var s state
	for _, c := range t.all {
		c.report(&s)
	}
	return s
}

func (t *troupe) state() state {
	s := t.count()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s.Heap = int64(m.HeapAlloc)
	return s
}

// seen waits until every caller has seen a change made at stamp or later, and
// answers how long after that it was, in ms.
func (t *troupe) seen(stamp int64, limit time.Duration) (float64, error) {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		missing := 0
		last := stamp
		for _, c := range t.all {
			at := c.sawAt(stamp)
			if at == 0 {
				missing++
			}
			last = max(last, at)
		}
		if missing == 0 {
			return ms(time.Duration(last - stamp)), nil
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("after %v %d of %d callers have not seen a change", limit, missing, len(t.all))
		}
	}
}

// compared is what "compare" answers.
type compared struct {
	Callers  int
	Entries  int // compared, of all callers
	Wrong    int
	Example  string
	SettleMS float64
}

// compare compares what every caller knows with the bucket, until it is the
// same or limit has passed.
func (t *troupe) compare(limit time.Duration) (compared, error) {
	begin := time.Now()
	for {
		all, err := bucket(t.ctx, t.all[0].nc)
		if err != nil {
			return compared{}, err
		}
		r := compared{SettleMS: ms(time.Since(begin))}
		for _, c := range t.all {
			if c.group.Kind == plain {
				continue
			}
			entries, wrong, err := c.compare(t.ctx, all)
			if err != nil {
				return r, err
			}
			r.Callers++
			r.Entries += entries
			r.Wrong += len(wrong)
			if len(wrong) > 0 {
				r.Example = wrong[0]
			}
		}
		if r.Wrong == 0 || time.Since(begin) > limit {
			return r, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}
