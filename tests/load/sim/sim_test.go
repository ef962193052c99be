package sim_test

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/tests/load/sim"
)

const ms = time.Millisecond

// turn calls all instances in turn, and counts.
type turn struct {
	n, next                      int
	picks, heads, ends, inFlight int
}

func (t *turn) Pick(*sim.Call) int {
	t.picks++
	t.inFlight++
	t.next = (t.next + 1) % t.n
	return t.next
}
func (t *turn) Head(*sim.Call) { t.heads++ }
func (t *turn) End(*sim.Call)  { t.ends++; t.inFlight-- }

func world(s sim.Server, c ...sim.Caller) sim.World {
	return sim.World{
		RTT: [][]time.Duration{{ms}}, Servers: []sim.Server{s}, Callers: c,
		Windows: []sim.Window{{From: 10 * time.Second, To: 110 * time.Second}}, End: 110 * time.Second,
	}
}

func near(t *testing.T, what string, got, want, part float64) {
	t.Helper()
	if math.Abs(got-want) > part*want {
		t.Errorf("%s: %.4g, want %.4g", what, got, want)
	}
}

// What queueing theory says holds in the simulation.
func TestServersAreAsTheoryHasThem(t *testing.T) {
	for _, tt := range []struct {
		name string
		sim.Server
		rate float64
		want time.Duration // mean without the way
	}{
		{"no limit", sim.Server{Kind: sim.Unlimited, Service: 50 * ms}, 500, 50 * ms},
		{"M/M/1 at 80 %", sim.Server{Kind: sim.FIFO, Workers: 1, Service: ms, Spread: sim.Exponential}, 800, 5 * ms},
		{"M/D/1 at 80 %", sim.Server{Kind: sim.FIFO, Workers: 1, Service: ms, Spread: sim.Constant}, 800, 3 * ms},
		{"M/G/1 shared at 80 %, whatever the spread", sim.Server{Kind: sim.Shared, Workers: 1, Service: ms}, 800, 5 * ms},
		{"M/M/2 at 50 %", sim.Server{Kind: sim.FIFO, Workers: 2, Service: ms, Spread: sim.Exponential}, 1000, 1333 * time.Microsecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &turn{n: 1}
			r := sim.New(world(tt.Server, sim.Caller{Rate: tt.rate}), 1).Run(p)
			s := &r.Windows[0][0]
			near(t, "rate", s.Rate(), tt.rate, 0.02)
			near(t, "mean", float64(s.Mean()-ms), float64(tt.want), 0.06)
			if p.heads != p.ends || p.inFlight != p.picks-p.ends {
				t.Errorf("%+v", p)
			}
		})
	}
}

func TestAClosedLoopHasItsCallsInFlight(t *testing.T) {
	p := &turn{n: 1}
	r := sim.New(world(sim.Server{Service: 9 * ms, Spread: sim.Constant}, sim.Caller{Closed: 7}), 1).Run(p)
	near(t, "rate", r.Windows[0][0].Rate(), 700, 0.01)
	near(t, "p50", float64(r.Windows[0][0].Quantile(0.5)), float64(10*ms), 0.015)
	if p.inFlight != 7 {
		t.Errorf("%+v", p)
	}
}

func TestStreamsAnswerAtOnceAndStayOpen(t *testing.T) {
	p := &turn{n: 1}
	r := sim.New(world(sim.Server{Service: 9 * ms}, sim.Caller{Closed: 7, Stream: time.Minute}), 1).Run(p)
	if p.heads != 14 || p.ends != 7 || p.inFlight != 7 || r.Windows[0][0].Ended != 7 {
		t.Errorf("%+v, %d ended", p, r.Windows[0][0].Ended)
	}
}

func TestAFullQueueRejects(t *testing.T) {
	for _, kind := range []sim.Kind{sim.FIFO, sim.Shared} {
		p := &turn{n: 1}
		r := sim.New(world(sim.Server{Kind: kind, Workers: 1, Service: 10 * ms, Queue: 3}, sim.Caller{Rate: 200}), 1).Run(p)
		s := &r.Windows[0][0]
		near(t, "rejected", s.RejectedShare(), 0.5, 0.06)
		near(t, "rate", s.Rate(), 100, 0.06)
		if s.Quantile(1) > 65*ms {
			t.Errorf("the longest took %v", s.Quantile(1))
		}
	}
}

func TestStepsChangeTheWorld(t *testing.T) {
	w := world(sim.Server{Service: 10 * ms, Spread: sim.Constant}, sim.Caller{Rate: 100})
	w.Servers = append(w.Servers, w.Servers[0])
	w.Retries = 1
	w.Windows = []sim.Window{{From: 0, To: 10 * time.Second}, {From: 10 * time.Second, To: 20 * time.Second}, {From: 20 * time.Second, To: 30 * time.Second}, {From: 30 * time.Second, To: 40 * time.Second}}
	w.End = 40 * time.Second
	w.Steps = []sim.Step{
		{At: 10 * time.Second, Do: func(s *sim.Sim) { s.Slow = 2; s.SetSlow(0, 2) }},
		{At: 20 * time.Second, Do: func(s *sim.Sim) { s.Kill(0); s.Unlist(0); s.SetRate(0, 200) }},
		{At: 30 * time.Second, Do: func(s *sim.Sim) { s.Start(0); s.SetRate(0, 0) }},
	}
	s := sim.New(w, 1)
	r := s.Run(&turn{n: 2})
	near(t, "mean", float64(r.Windows[0][0].Mean()), float64(11*ms), 0.02)
	near(t, "mean, slow", float64(r.Windows[1][0].Mean()), float64(31*ms), 0.05)
	near(t, "rate, one dead", float64(r.Windows[2][0].Picks), 2000, 0.1)
	if r.Windows[2][0].Failed > 900 || r.Windows[3][0].Picks != 0 {
		t.Errorf("%d failed, %d picks", r.Windows[2][0].Failed, r.Windows[3][0].Picks)
	}
	if since, ok := s.Listed(0); !ok || since != 30*time.Second {
		t.Errorf("listed: %v since %v", ok, since)
	}
}

func TestRunsWithTheSameSeedAreTheSame(t *testing.T) {
	run := func(seed uint64) (shares []float64) {
		w := world(sim.Server{Kind: sim.FIFO, Workers: 2, Service: ms}, sim.Caller{Rate: 500}, sim.Caller{Closed: 3})
		w.Jitter = 0.2
		r := sim.New(w, seed).Run(&turn{n: 1})
		s := &r.Windows[0][0]
		return []float64{float64(s.Picks), float64(s.Mean()), float64(s.Quantile(0.99))}
	}
	if a, b := run(1), run(1); !reflect.DeepEqual(a, b) {
		t.Errorf("%v and %v", a, b)
	}
	if a, b := run(1), run(2); reflect.DeepEqual(a, b) {
		t.Errorf("both %v", a)
	}
}

func TestTimeCanBeWaitedFor(t *testing.T) {
	w := world(sim.Server{Service: ms}, sim.Caller{Rate: 10})
	var last time.Duration
	w.Sleep = func(until time.Duration) {
		if until <= last {
			t.Fatalf("%v after %v", until, last)
		}
		last = until
	}
	sim.New(w, 1).Run(&turn{n: 1})
	if last < 109*time.Second || last > w.End {
		t.Errorf("ended at %v", last)
	}
}

// away sends a share to the far place that changes from time to time.
type away struct {
	sim *sim.Sim
	at  func(time.Duration) float64
}

func (a away) Pick(c *sim.Call) int {
	if a.sim.Rand().Float64() < a.at(c.Now) {
		return 1
	}
	return 0
}
func (away) Head(*sim.Call) {}
func (away) End(*sim.Call)  {}

func TestTurnsAreCounted(t *testing.T) {
	for _, tt := range []struct {
		name string
		at   func(time.Duration) float64
		want int
	}{
		{"steady", func(time.Duration) float64 { return 0.5 }, 0},
		{"rises", func(at time.Duration) float64 { return at.Seconds() / 110 }, 0},
		{"up and down", func(at time.Duration) float64 { return 0.5 - math.Abs(at.Seconds()-60)/200 }, 1},
		{"swings", func(at time.Duration) float64 { return 0.5 + 0.2*math.Sin(at.Seconds()*2*math.Pi/20) }, 10},
	} {
		w := world(sim.Server{Service: ms}, sim.Caller{Rate: 1000})
		w.RTT = [][]time.Duration{{ms, 2 * ms}, {2 * ms, ms}}
		w.Servers = append(w.Servers, sim.Server{Place: 1, Service: ms})
		s := sim.New(w, 1)
		r := s.Run(away{s, tt.at})
		if turns, deviation := r.Windows[0][0].Turns(); turns < tt.want-1 || turns > tt.want || (tt.want == 0) && turns != 0 || deviation > 0.3 {
			t.Errorf("%s: %d turns, want %d; deviation %v", tt.name, turns, tt.want, deviation)
		}
	}
}
