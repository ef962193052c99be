package latency_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// at is a point in a plane, in milliseconds, and the height above it.
func at(x, y, height float64) events.Coordinate {
	c := events.Coordinate{Error: 0.2, Height: height / 1000}
	c.Vec[0], c.Vec[1] = x/1000, y/1000
	return c
}

func apart(a, b events.Coordinate) time.Duration {
	sum := 0.0
	for i := range a.Vec {
		d := a.Vec[i] - b.Vec[i]
		sum += d * d
	}
	return time.Duration((math.Sqrt(sum) + a.Height + b.Height) * float64(time.Second))
}

// around are ten callers around the middle.
func around() []events.Coordinate {
	var callers []events.Coordinate
	for i := range 10 {
		angle := 2 * math.Pi * float64(i) / 10
		callers = append(callers, at(60*math.Cos(angle), 60*math.Sin(angle), 2))
	}
	return callers
}

// pingFrom makes a caller ping a locator with its distance.
func pingFrom(t *testing.T, l *latency.Locator, reporter int, from events.Coordinate, rtt time.Duration) []byte {
	t.Helper()
	data, err := wire.EncodePing(wire.Ping{Reporter: fmt.Sprintf("c%d", reporter), RTT: rtt, Coordinate: from})
	if err != nil {
		t.Fatal(err)
	}
	return l.Answer(data)
}

func TestALocatorFindsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := latency.NewLocator()
		truth := at(20, -10, 1)
		for round := range 20 {
			for i, c := range around() {
				answer, err := wire.DecodeCoordinate(pingFrom(t, l, i, c, apart(c, truth)))
				if err != nil {
					t.Fatal(err)
				}
				if round == 19 {
					if got, want := apart(answer, c), apart(truth, c); (got - want).Abs() > want/10 {
						t.Errorf("from caller %d it is %v away, want %v", i, got, want)
					}
				}
			}
			time.Sleep(5 * time.Second)
		}
		if c, ok := l.Coordinate(); !ok || c.Error > 0.2 {
			t.Errorf("Coordinate() = %v, %v", c, ok)
		}
	})
}

func TestALocatorNeedsSeveralCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := latency.NewLocator()
		for range 100 {
			for i, c := range around()[:3] {
				pingFrom(t, l, i, c, 20*time.Millisecond)
			}
			time.Sleep(5 * time.Second)
			if c, ok := l.Coordinate(); ok {
				t.Fatalf("Coordinate() = %v from three callers", c)
			}
		}
	})
}

func TestTheRecordsCoordinateChangesRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		l := latency.NewLocator()
		truth := at(20, -10, 1)
		last, _ := l.Coordinate()
		var changes []time.Time
		live := func(d time.Duration, noise float64) {
			for end := time.Now().Add(d); time.Now().Before(end); {
				for i, c := range around() {
					if r.IntN(5) == 0 {
						pingFrom(t, l, i, c, wobble(r, apart(c, truth), noise))
					}
				}
				time.Sleep(time.Second)
				if c, ok := l.Coordinate(); ok && c != last {
					last, changes = c, append(changes, time.Now())
				}
			}
		}
		began := time.Now()
		live(2*time.Minute, 0.05)
		if len(changes) == 0 || changes[0].Sub(began) > time.Minute+time.Second {
			t.Fatalf("%d changes in two minutes, want the first within one", len(changes))
		}
		changes = nil
		live(time.Hour, 0.05)
		if len(changes) > 1 {
			t.Errorf("%d changes in an hour in which nothing moved by a tenth", len(changes))
		}
		changes = nil
		for range 20 { // it moves all the time
			truth = at(20+r.Float64()*50, r.Float64()*50, 1)
			live(20*time.Second, 0.05)
		}
		if len(changes) < 3 || len(changes) > 7 {
			t.Errorf("%d changes in 400 s in which it moved 20 times", len(changes))
		}
		for i := range changes[1:] {
			if gap := changes[i+1].Sub(changes[i]); gap < time.Minute {
				t.Errorf("%v between two changes", gap)
			}
		}
	})
}

func TestOneFalsePingOfTenMovesAnInstanceLittle(t *testing.T) {
	truth := at(20, -10, 1)
	lies := map[string]time.Duration{"near": 100 * time.Microsecond, "far": 10 * time.Second}
	for name, lie := range lies {
		for liar := range 10 {
			t.Run(fmt.Sprintf("%s/caller=%d", name, liar), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := rand.New(rand.NewPCG(1, 2))
					l := latency.NewLocator()
					for range 60 {
						for i, c := range around() {
							rtt := wobble(r, apart(c, truth), 0.03)
							if i == liar {
								rtt = lie
							}
							pingFrom(t, l, i, c, rtt)
						}
						time.Sleep(2 * time.Second)
					}
					found, ok := l.Coordinate()
					if !ok {
						t.Fatal("no coordinate")
					}
					worst := 0.0
					for i, c := range around() {
						if i != liar {
							worst = max(worst, math.Abs(float64(apart(found, c)-apart(truth, c)))/float64(apart(truth, c)))
						}
					}
					t.Logf("distances to honest callers are off by at most %.1f %%", 100*worst)
					if worst > 0.10 {
						t.Errorf("a distance is off by %.1f %%", 100*worst)
					}
				})
			})
		}
	}
}

func TestMalformedPingsAreNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := latency.NewLocator()
		bad := []string{
			"x", "{}", "null", "[]", `{"reporter":"a","rtt_us":1}`, `{"reporter":"","rtt_us":1,"coordinate":{}}`,
			`{"reporter":"a.b","rtt_us":1,"coordinate":{"vec":[0,0,0,0,0,0,0,0]}}`,
			`{"reporter":"a","rtt_us":0,"coordinate":{"vec":[0,0,0,0,0,0,0,0]}}`,
			`{"reporter":"a","rtt_us":-1,"coordinate":{"vec":[0,0,0,0,0,0,0,0]}}`,
			`{"reporter":"a","rtt_us":1e8,"coordinate":{"vec":[0,0,0,0,0,0,0,0]}}`,
			`{"reporter":"a","rtt_us":1,"coordinate":{"vec":[11,0,0,0,0,0,0,0]}}`,
			`{"reporter":"a","rtt_us":1,"coordinate":{"vec":[0,0,0]}}`,
			`{"reporter":"a","rtt_us":NaN,"coordinate":{"vec":[0,0,0,0,0,0,0,0]}}`,
			strings.Repeat(" ", 5000),
		}
		for _, data := range bad {
			if answer := l.Answer([]byte(data)); len(answer) > 0 {
				t.Errorf("%s is answered by %s", data, answer)
			}
		}
		if answer := l.Answer(nil); len(answer) > 0 {
			t.Errorf("an empty ping is answered by %s", answer)
		}
		if _, ok := l.Coordinate(); ok {
			t.Error("there is a coordinate")
		}
	})
}

func TestALocatorRemembersNoMoreCallersThanItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := latency.NewLocator()
		truth := at(20, -10, 1)
		for i := range 2000 { // each is heard once
			c := around()[i%10]
			pingFrom(t, l, i, c, apart(c, truth))
			time.Sleep(10 * time.Millisecond)
		}
		if c, ok := l.Coordinate(); ok {
			for i, from := range around() {
				if got, want := apart(c, from), apart(truth, from); (got - want).Abs() > want/5 {
					t.Errorf("from caller %d it is %v away, want %v", i, got, want)
				}
			}
		}
	})
}

// Whatever the ping, the answer is a valid coordinate.
func FuzzLocator(f *testing.F) {
	f.Add([]byte(`{"reporter":"a","rtt_us":5000,"coordinate":{"vec":[0.01,0,0,0,0,0,0,0],"error":0.3,"adjustment":0,"height":0.001}}`), uint8(3))
	f.Add([]byte(`{"reporter":"a","rtt_us":0.001,"coordinate":{"vec":[10,-10,10,-10,10,-10,10,-10],"error":10,"adjustment":10,"height":10}}`), uint8(200))
	f.Add([]byte(`{"reporter":"a","rtt_us":1e7,"coordinate":{"vec":[0,0,0,0,0,0,0,0]}}`), uint8(255))
	f.Add([]byte(`{"reporter":1}`), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, seed uint8) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 0))
			l := latency.NewLocator()
			for range 6 {
				answer := l.Answer(data)
				if len(answer) == 0 {
					if _, err := wire.DecodePing(data); err == nil {
						t.Fatalf("%s is not answered", data)
					}
				} else if _, err := wire.DecodeCoordinate(answer); err != nil {
					t.Fatalf("answered %s: %v", answer, err)
				}
				for k, c := range around()[:4] {
					pingFrom(t, l, k, c, time.Duration(1+r.Int64N(int64(100*time.Millisecond))))
				}
				time.Sleep(5 * time.Second)
				if c, ok := l.Coordinate(); ok && c.Validate() != nil {
					t.Fatalf("Coordinate() = %v: %v", c, c.Validate())
				}
			}
		})
	})
}
