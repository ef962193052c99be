//go:build faults && unix

package soak_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/tests/faults"
)

func TestMain(m *testing.M) { natstest.Main(m) }

const (
	ttl      = 15 * time.Second
	shortTTL = 12 * time.Second // renewed every 4 s; that a server is frozen is noticed within 6 s
	// least is how often something happens, however short the soak.
	least = 4
)

// bounds are generous: an election takes up to 9 s, and a soak must not fail
// because the machine is busy. What they bound are things that never end.
var bounds = faults.Bounds{Blind: time.Minute, Heal: time.Minute, Ghost: 10 * time.Second}

// soak is a world to which things happen at random.
type soak struct {
	*faults.World
	rnd     *rand.Rand
	mortals []*faults.Instance
}

// events are what may happen. Each ends with everything in its place.
var events = []struct {
	name   string
	happen func(*soak)
}{
	{"a server is killed", (*soak).kill},
	{"the leader is killed", (*soak).killLeader},
	{"a server freezes", (*soak).freeze},
	{"two servers are killed", (*soak).killTwo},
	{"instances come and go", (*soak).churn},
	{"instances die", (*soak).die},
	{"callers come and go", (*soak).callers},
}

func TestSoak(t *testing.T) {
	t.Parallel()
	length := setting(t, "PROXIMA_SOAK", 50*time.Second, time.ParseDuration)
	seed := setting(t, "PROXIMA_SOAK_SEED", uint64(time.Now().UnixNano()), func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
	t.Logf("PROXIMA_SOAK=%v PROXIMA_SOAK_SEED=%d", length, seed)

	s := &soak{World: faults.Start(t, faults.Options{}), rnd: rand.New(rand.NewPCG(seed, 36))}
	s.Announce(20, ttl)
	s.Announce(10, shortTTL)
	s.Callers(3)
	var sizes []size
	begin := time.Now()
	for n := 1; time.Since(begin) < length || n <= least; n++ {
		e := events[s.rnd.IntN(len(events))]
		if !s.Case(fmt.Sprintf("%04d %s", n, e.name), bounds, func() { e.happen(s) }) {
			t.Fatalf("it went wrong %v after the begin; PROXIMA_SOAK_SEED=%d tells the story again", time.Since(begin).Round(time.Second), seed)
		}
		s.reap()
		sizes = append(sizes, measure(begin))
	}
	flat(t, sizes)
}

// setting is the value of a variable, or the default.
func setting[T any](t *testing.T, name string, value T, parse func(string) (T, error)) T {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return value
	}
	value, err := parse(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return value
}

// some is a random time up to most, not too short to matter.
func (s *soak) some(most time.Duration) time.Duration {
	return 500*time.Millisecond + time.Duration(s.rnd.Int64N(int64(most)))
}

func (s *soak) server() *natstest.Process { return s.Nodes[s.rnd.IntN(len(s.Nodes))] }

func (s *soak) kill() {
	n := s.server()
	s.Kill(n)
	s.Pass(s.some(10 * time.Second))
	s.Restart(n)
}

func (s *soak) killLeader() {
	n := s.Leader()
	s.Kill(n)
	s.Pass(s.some(10 * time.Second))
	s.Restart(n)
}

// freeze: until a server that goes on has caught up, it answers with what it
// knew before. A caller that has heard more must not believe it.
func (s *soak) freeze() {
	n := s.server()
	s.Freeze(n)
	s.Pass(s.some(12 * time.Second))
	s.Thaw(n)
}

// killTwo leaves one that cannot write; it may last longer than a lease.
func (s *soak) killTwo() {
	two := s.Others(s.server())
	for _, n := range two {
		s.Kill(n)
	}
	s.Pass(s.some(10 * time.Second))
	s.Restart(two...)
}

func (s *soak) churn() {
	for range 1 + s.rnd.IntN(8) {
		for _, i := range s.Announce(1+s.rnd.IntN(5), ttl) {
			s.Pass(time.Duration(s.rnd.IntN(200)) * time.Millisecond)
			s.Leave(i)
		}
	}
}

// die kills one instance at most, while a server may be away: an instance that
// dies alone is removed, and a living one must stay.
func (s *soak) die() {
	i := s.AnnounceMortal(shortTTL)
	s.mortals = append(s.mortals, i)
	s.Pass(s.some(2 * time.Second))
	s.Die(i)
}

func (s *soak) callers() {
	n := s.server()
	away := s.rnd.IntN(2) == 0
	if away {
		s.Kill(n)
	}
	var some []*faults.Caller
	for range 1 + s.rnd.IntN(4) {
		some = append(some, s.CallerAt(s.URLs()))
	}
	s.Pass(s.some(3 * time.Second))
	for _, c := range some {
		c.Close()
	}
	if away {
		s.Restart(n)
	}
}

// reap ends what is left of the dead.
func (s *soak) reap() {
	for _, i := range s.mortals {
		s.Leave(i)
	}
	s.mortals = nil
}

// size is how much there is of this process.
type size struct {
	at         time.Duration
	heap       float64 // MB
	goroutines int
}

func measure(begin time.Time) size {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return size{time.Since(begin), float64(m.HeapAlloc) / 1e6, runtime.NumGoroutine()}
}

// flat compares the first quarter with the last.
func flat(t *testing.T, all []size) {
	t.Helper()
	n := max(1, len(all)/4)
	first, last := smallest(all[:n]), smallest(all[len(all)-n:])
	hours := (last.at - first.at).Hours()
	t.Logf("%d events: heap from %.1f to %.1f MB, goroutines from %d to %d", len(all), first.heap, last.heap, first.goroutines, last.goroutines)
	// Ten megabytes are what is there at one moment and not at the other, and
	// one in an hour what could be a leak.
	if grown := last.heap - first.heap; grown > 10+hours {
		t.Errorf("the heap has grown by %.1f MB in %.1f h", grown, hours)
	}
	if grown := last.goroutines - first.goroutines; grown > 20 {
		t.Errorf("there are %d goroutines more", grown)
	}
}

// smallest is the least that was there in the time: what is only there for a
// moment does not count.
func smallest(all []size) size {
	s := all[0]
	for _, x := range all {
		s.heap, s.goroutines = min(s.heap, x.heap), min(s.goroutines, x.goroutines)
	}
	return s
}
