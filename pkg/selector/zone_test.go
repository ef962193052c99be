package selector_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// region is three zones with four instances and a caller each, on fake time.
type region struct {
	t *testing.T
	*board
	began time.Time

	mu       sync.Mutex // guards what follows
	dead     map[string]bool
	lives    map[string]time.Time // since when its instances run, by zone
	seconds  map[string]*[120]int // calls to an instance, in each second
	attempts int
	calls    int
	failed   int
}

func (r *region) zones() []string { return []string{"a", "b", "c"} }

// publish lists all instances of the zones that are listed.
func (r *region) publish(zones ...string) {
	var entries []events.Entry
	for _, zone := range zones {
		for i := range 4 {
			e := instance(fmt.Sprint(zone, i), topology.Location{Region: "r", Zone: zone}, endpoint(events.TCP, fmt.Sprint(zone, i, ":80")))
			e.Started = r.lives[zone]
			e.Incarnation = r.lives[zone].String()
			entries = append(entries, e)
		}
	}
	r.write("user", entries...)
}

// caller makes a selector in a zone that calls so many times a second until
// ctx ends.
func (r *region) caller(ctx context.Context, work *sync.WaitGroup, zone string, perSecond int) {
	o := selector.Options{Source: r.board, Location: topology.Location{Region: "r", Zone: zone}, Logger: slog.New(slog.DiscardHandler)}
	o.Latency.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
		distance := 2 * time.Millisecond
		if address[:1] == zone {
			distance = 200 * time.Microsecond
		}
		time.Sleep(distance)
		if r.isDead(address[:1]) {
			return nil, errRefused
		}
		return connection{}, nil
	}
	s, err := selector.New(ctx, nil, o)
	if err != nil {
		r.t.Fatal(err)
	}
	work.Go(func() {
		defer s.Close()
		var calls sync.WaitGroup
		defer calls.Wait()
		for ctx.Err() == nil {
			time.Sleep(time.Duration(rand.ExpFloat64() * float64(time.Second) / float64(perSecond)))
			calls.Go(func() { r.call(s) })
		}
	})
}

func (r *region) call(s *selector.Selector) {
	err := s.Do(context.WithoutCancel(r.t.Context()), "user", func(_ context.Context, in *events.Instance) error {
		if !r.arrives(in.ID) {
			return errRefused
		}
		time.Sleep(5 * time.Millisecond)
		return nil
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if err != nil {
		r.failed++
	}
}

func (r *region) isDead(zone string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead[zone]
}

// arrives counts an attempt, and reports whether the instance lives.
func (r *region) arrives(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts++
	if r.dead[id[:1]] {
		return false
	}
	if r.seconds[id] == nil {
		r.seconds[id] = new([120]int)
	}
	r.seconds[id][int(time.Since(r.began)/time.Second)]++
	return true
}

func (r *region) set(zone string, dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead[zone] = dead
}

// most is the rate of calls of the busiest instance of some zones, in any five seconds of a
// time.
func (r *region) most(from, to int, zones ...string) (most float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, seconds := range r.seconds {
		if !slices.Contains(zones, id[:1]) {
			continue
		}
		for i := from; i+5 <= to; i++ {
			sum := 0
			for _, n := range seconds[i : i+5] {
				sum += n
			}
			most = max(most, float64(sum)/5)
		}
	}
	return most
}

// The nearest zone of a third of the callers dies as a whole, and comes back.
func TestAZoneThatDiesAndComesBackOverloadsNoInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &region{t: t, board: newBoard(), began: time.Now(), dead: map[string]bool{}, lives: map[string]time.Time{}, seconds: map[string]*[120]int{}}
		for _, zone := range r.zones() {
			r.lives[zone] = r.began.Add(-time.Hour)
		}
		r.publish(r.zones()...)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		for _, zone := range r.zones() {
			r.caller(ctx, &work, zone, 400) // 100 for each instance
		}
		time.Sleep(20 * time.Second)
		r.set("a", true)
		time.Sleep(15 * time.Second) // until the leases end
		r.publish("b", "c")
		time.Sleep(5 * time.Second)
		r.lives["a"] = time.Now()
		r.set("a", false)
		r.publish(r.zones()...)
		time.Sleep(45 * time.Second)
		cancel()
		work.Wait()

		calm := r.most(5, 20, r.zones()...)
		outage, back := r.most(20, 40, "b", "c"), r.most(40, 85, "a")
		t.Logf("calls a second of the busiest instance: %.0f at first, %.0f while the zone is dead, %.0f of those that are back", calm, outage, back)
		t.Logf("%d calls, %d failed, %d attempts", r.calls, r.failed, r.attempts)
		// The calls of a third of the callers make half as much again.
		if outage > 1.6*calm {
			t.Errorf("the busiest survivor had %.0f calls a second, and %.0f before", outage, calm)
		}
		if back > 1.2*calm {
			t.Errorf("an instance that came back had %.0f calls a second, and %.0f is its share", back, calm)
		}
		if late := r.most(75, 85, "a"); late < 0.8*calm {
			t.Errorf("the zone gets %.0f calls a second when it is back for half a minute, want %.0f", late, calm)
		}
		if r.failed > 0 || r.attempts > r.calls+r.calls/100 {
			t.Errorf("%d calls failed, %d attempts for %d calls", r.failed, r.attempts, r.calls)
		}
	})
}

// One of two fails half of its calls, for five minutes.
func TestABreakerDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		state, opened, trials, most := breaker.Closed, 0, 0, 0
		o := selector.Options{Strategy: selector.RoundRobin}
		o.Breaker.OnChange = func(_ breaker.Key, _, to breaker.State) {
			mu.Lock()
			defer mu.Unlock()
			if state, trials = to, 0; to == breaker.Open {
				opened++
			}
		}
		w := start(t, o, several(2)...)
		var calls sync.WaitGroup
		for range 5 * 60 * 100 {
			time.Sleep(10 * time.Millisecond)
			calls.Go(func() {
				p := w.pick()
				mu.Lock()
				trial := p.ID == "i0" && state == breaker.HalfOpen
				if trial {
					trials++
					most = max(most, trials)
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
				mu.Lock()
				if trial {
					trials--
				}
				mu.Unlock()
				if p.ID == "i0" && rand.Float64() < 0.5 {
					p.Done(errCall)
				} else {
					p.Done(nil)
				}
			})
		}
		calls.Wait()
		t.Logf("opened %d times in 300 s", opened)
		if opened < 3 || opened > 60 {
			t.Errorf("the breaker opened %d times in 300 s, want some, and at most once in 5 s", opened)
		}
		if most > 1 {
			t.Errorf("%d trials at once, want 1", most)
		}
	})
}
