package selector_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

// bus is a latency.Bus in memory.
type bus struct {
	mu                    sync.Mutex
	last                  map[string]retained
	subscribers           map[*subscriber]string
	published, subscribed int
}

type retained struct {
	data []byte
	at   time.Time
}

type subscriber struct {
	turn   sync.Mutex
	handle func(subject string, data []byte, age time.Duration)
}

func newBus() *bus {
	return &bus{last: make(map[string]retained), subscribers: make(map[*subscriber]string)}
}

func (b *bus) Publish(subject string, data []byte) error {
	b.mu.Lock()
	b.published++
	b.last[subject] = retained{data, time.Now()}
	var to []*subscriber
	for l, pattern := range b.subscribers {
		if ok, _ := path.Match(pattern, subject); ok {
			to = append(to, l)
		}
	}
	b.mu.Unlock()
	for _, l := range to {
		l.hear(subject, data, 0)
	}
	return nil
}

func (b *bus) Subscribe(_ context.Context, pattern string, handle func(subject string, data []byte, age time.Duration)) (func(), error) {
	l := &subscriber{handle: handle}
	b.mu.Lock()
	b.subscribed++
	b.subscribers[l] = pattern
	before := make(map[string]retained)
	for subject, r := range b.last {
		if ok, _ := path.Match(pattern, subject); ok {
			before[subject] = r
		}
	}
	b.mu.Unlock()
	for subject, r := range before {
		l.hear(subject, r.data, time.Since(r.at))
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subscribers, l)
	}, nil
}

func (l *subscriber) hear(subject string, data []byte, age time.Duration) {
	l.turn.Lock()
	defer l.turn.Unlock()
	l.handle(subject, data, age)
}

// traffic returns how many messages were published, and how many subscriptions there
// were and are.
func (b *bus) traffic() (published, subscribed, listening int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.published, b.subscribed, len(b.subscribers)
}

// subjects are the services about which something was published.
func (b *bus) subjects() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	services := make(map[string]bool)
	for subject := range b.last {
		services[strings.Split(subject, ".")[3]] = true // latency.<region>.<zone>.<service>.<reporter>
	}
	return services
}

// Request fails: the instances of these tests do not answer.
func (b *bus) Request(context.Context, string, []byte) ([]byte, error) {
	return nil, errors.New("no instance answers")
}

// tell publishes what a reporter in the zone of home measured: its coordinate, and the
// distances of some instances.
func (b *bus) tell(t *testing.T, at *events.Coordinate, rtts map[string]time.Duration) {
	t.Helper()
	samples := []map[string]any{}
	for id, rtt := range rtts {
		samples = append(samples, map[string]any{"id": id, "incarnation": "1", "rtt_us": rtt.Microseconds(), "count": 3, "age_ms": 0})
	}
	data, err := json.Marshal(map[string]any{"seq": time.Now().UnixNano(), "coordinate": at, "samples": samples})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("latency."+home.Region+"."+home.Zone+".user.neighbour", data); err != nil {
		t.Fatal(err)
	}
}

// point is a place that far from the origin, on one of the axes.
func point(axis int, rtt time.Duration) *events.Coordinate {
	c := &events.Coordinate{Error: 0.1}
	c.Vec[axis] = rtt.Seconds()
	return c
}

func placed(c *events.Coordinate) func(*events.Entry) {
	return func(e *events.Entry) { e.Coordinate = c }
}

func sharing(b *bus, o selector.Options) selector.Options {
	o.Probe.Bus = b
	return o
}

// sources are how the distances of a service are known, by instance.
func (w *world) sources() map[string]string {
	w.t.Helper()
	all := make(map[string]string)
	for _, c := range w.explain().Instances {
		all[c.ID] = c.DistanceSource
	}
	return all
}

// A new caller knows what its zone has measured, and by coordinates what the zone has not
// measured, before it measures anything itself.
func TestTheFirstPickIsTheNearestThatTheZoneKnows(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		old := newWorld(t, sharing(b, quick(selector.Options{})))
		var all []events.Entry
		for i, d := range []time.Duration{9 * ms, 7 * ms, 10 * ms, 9 * ms, 8 * ms, 9 * ms} {
			all = append(all, old.at(string(rune('a'+i)), home, d, placed(point(i, d))))
		}
		all = append(all, instance("g", home, placed(point(6, 15*ms))), instance("h", home, placed(point(7, 40*ms))), instance("i", home))
		old.list(all...)
		time.Sleep(time.Minute)

		newcomer := sharing(b, selector.Options{Strategy: selector.Nearest})
		newcomer.Latency.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		w := newWorld(t, newcomer)
		began := time.Now()
		var asking sync.WaitGroup
		asking.Go(func() {
			p, err := w.Pick(t.Context(), "user")
			if err != nil || p.ID != "b" {
				t.Errorf("the first pick is %v, %v, want b", p.Instance, err)
			}
			p.Done(nil)
		})
		synctest.Wait()
		w.lists <- events.Snapshot{Service: "user", Entries: sortEntries(all)}
		asking.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v, want no time for measuring", took)
		}
		for id, source := range w.sources() {
			want := "shared"
			switch id {
			case "g", "h":
				want = "predicted"
			case "i":
				want = "assumed"
			}
			if source != want {
				t.Errorf("the distance of %s is %s, want %s", id, source, want)
			}
		}
		if c := w.candidate("a"); c.DistanceMS != 9 {
			t.Errorf("a is at %v ms, want the 9 ms that were measured", c.DistanceMS)
		}
		if g, h := w.candidate("g").DistanceMS, w.candidate("h").DistanceMS; g < 10 || g > 20 || h < 30 || h > 50 {
			t.Errorf("g is at %v ms and h at %v ms, want about 15 and 40", g, h)
		}
	})
}

// An instance with a predicted distance may be picked if that is about as near.
func TestThePredictedBelongToTheNearSet(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		b.tell(t, point(0, 0), map[string]time.Duration{"a": 2 * ms})
		w := start(t, sharing(b, selector.Options{}),
			instance("a", home), instance("b", home, placed(point(1, 2500*time.Microsecond))), instance("c", home, placed(point(2, 9*ms))))
		if got := w.only(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("picked %v, want a and b", got)
		}
		wantReasons(t, w.explain(), []string{
			"a zone true picked by p2c: in the near set of zone",
			"b zone true picked by p2c: in the near set of zone",
			"c zone false standby: used only when no instance of the near set is available (farther than 3 ms, the nearest of zone is at 2 ms)",
		})
	})
}

// A record that is written again with a coordinate is still that of the same instance.
func TestAPredictionFollowsTheRecord(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		b := newBus()
		b.tell(t, point(0, 0), nil)
		w := start(t, sharing(b, selector.Options{}), instance("a", home, placed(point(1, 40*ms))), instance("b", home))
		w.call("a", errRefused)
		for _, want := range []time.Duration{40 * ms, 80 * ms, 20 * ms} {
			w.list(instance("a", home, placed(point(2, want))), instance("b", home))
			c := w.candidate("a")
			if c.DistanceMS != inMS(want) || c.DistanceSource != "predicted" || c.Picks != 1 || c.Breaker != "open" {
				t.Errorf("%s, want %v away, predicted, and the rest as it was", learned(c), want)
			}
		}
		// A record without a coordinate does not mean that the instance has moved.
		w.list(instance("a", home), instance("b", home))
		if c := w.candidate("a"); c.DistanceMS != 20 || c.Picks != 1 {
			t.Errorf("%s, want it to be where it was", learned(c))
		}
	})
}

func inMS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// A caller without a zone shares with no other caller.
func TestNothingIsSharedWithoutAZone(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   topology.Location
		off  bool
		want bool
	}{
		{"a zone", home, false, true},
		{"a region", topology.Location{Region: "us"}, false, false},
		{"a zone, and told not to", home, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBus()
				b.tell(t, point(0, 0), map[string]time.Duration{"b": time.Millisecond})
				o := sharing(b, selector.Options{Location: tt.at})
				o.Latency.NoShare = tt.off
				w := newWorld(t, o)
				w.list(w.at("a", home, 2*time.Millisecond), instance("b", home))
				time.Sleep(time.Minute)
				published, subscribed, _ := b.traffic()
				if (published > 1) != tt.want || (subscribed > 0) != tt.want {
					t.Errorf("%d messages besides that of the test, %d subscriptions", published-1, subscribed)
				}
				_ = w.Close()
				if _, _, listening := b.traffic(); listening > 0 {
					t.Error("a subscription is left after Close")
				}
			})
		})
	}
}

// A suspect is probed at once, not when its turn has come.
func TestASuspectIsMeasuredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var near distances
		var mu sync.Mutex
		probed := make(map[string]int)
		o := selector.Options{}
		o.Latency.Interval = 10 * time.Minute
		o.Latency.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			probed[address]++
			mu.Unlock()
			return near.dial(ctx, network, address)
		}
		all := []events.Entry{near.at("a", home, time.Millisecond), near.at("b", home, time.Millisecond)}
		w := start(t, o, all...)
		for i, doubted := range []bool{true, false, true} {
			mu.Lock()
			clear(probed)
			mu.Unlock()
			all[0].Suspect = doubted
			w.send(events.Snapshot{Service: "user", Entries: all})
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			if want := map[bool]int{true: 1}[doubted]; probed["a.example:80"] != want || probed["b.example:80"] != 0 {
				t.Errorf("step %d, suspect %v: probed %v", i, doubted, probed)
			}
			mu.Unlock()
		}
	})
}
