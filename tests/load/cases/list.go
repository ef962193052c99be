package cases

import (
	"fmt"
	"math"
	"time"

	"github.com/proxima-discovery/proxima/tests/load/sim"
)

const (
	msec  = time.Millisecond
	never = time.Duration(math.MaxInt64)
)

// Round trips. Those between regions are medians over a year that CloudPing.co measured
// between regions of AWS (cloudping.co). They count the time to open a TCP connection.
const (
	inZone   = 500 * time.Microsecond
	nextZone = 1500 * time.Microsecond
	ireland  = 27300 * time.Microsecond // eu-central-1 to eu-west-1: 26.9 and 27.3 ms
	north    = 153 * msec               // eu-central-1 to us-west-1: 153.0 and 153.2 ms
)

// places is a world's ways: the first place is the callers', the others are so far from
// it, and from each other.
func places(away ...time.Duration) [][]time.Duration {
	n := len(away) + 1
	rtt := make([][]time.Duration, n)
	for i := range rtt {
		rtt[i] = make([]time.Duration, n)
		for k := range rtt[i] {
			switch {
			case i == k:
				rtt[i][k] = inZone
			case min(i, k) == 0:
				rtt[i][k] = away[max(i, k)-1]
			default:
				rtt[i][k] = max(away[i-1], away[k-1])
			}
		}
	}
	return rtt
}

// ten is a server with ten workers of 20 ms: it gets 500 calls a second done.
func ten(place int) sim.Server {
	return sim.Server{Place: place, Kind: sim.FIFO, Workers: 10, Service: 20 * msec}
}

// open is a server without any limit.
func open(place int, service time.Duration) sim.Server {
	return sim.Server{Place: place, Service: service}
}

func times(n int, s sim.Server) (all []sim.Server) {
	for range n {
		all = append(all, s)
	}
	return all
}

func servers(groups ...[]sim.Server) (all []sim.Server) {
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

// callers of a rate in all, which start within two seconds.
func callers(n int, rate float64) (all []sim.Caller) {
	for i := range n {
		all = append(all, sim.Caller{Rate: rate / float64(n), Start: time.Duration(i) * 2 * time.Second / time.Duration(n)})
	}
	return all
}

// rates is a step that changes the rate of all callers.
func rates(at time.Duration, rate float64) sim.Step {
	return sim.Step{At: at, Do: func(s *sim.Sim) {
		for i := range s.World.Callers {
			s.SetRate(i, rate/float64(len(s.World.Callers)))
		}
	}}
}

func slow(at time.Duration, by float64) sim.Step {
	return sim.Step{At: at, Do: func(s *sim.Sim) { s.Slow = by }}
}

func step(at time.Duration, do func(*sim.Sim)) sim.Step { return sim.Step{At: at, Do: do} }

func window(from, to time.Duration) sim.Window {
	return sim.Window{From: from * time.Second, To: to * time.Second}
}

// calm is a world of a minute in which nothing happens.
func calm(w sim.World) sim.World {
	w.Jitter = 0.1
	w.Windows, w.End = []sim.Window{window(5, 60)}, 60*time.Second
	return w
}

// falling is a world in which, after twenty calm seconds at 300 calls a second, there are
// as many as rate for 70 seconds, and then 200 again. The first window is the overload once
// settled, the second one what is left 40 s after it.
func falling(w sim.World, n int, rate float64) sim.World {
	w.Jitter = 0.1
	w.Callers = callers(n, 300)
	w.Steps = append(w.Steps, rates(20*time.Second, rate), rates(90*time.Second, 200))
	w.Windows, w.End = []sim.Window{window(45, 90), window(130, 160)}, 160*time.Second
	return w
}

var stays = []Want{most(Away, 0)}

// rarely is for worlds in which chance looks like overload now and then, and for those in
// which a trial is right.
var rarely = []Want{most(Away, 4)}

// All are the cases.
func All() (all []Case) {
	add := func(name string, world func() sim.World, wants ...Want) *Case {
		all = append(all, Case{Name: name, World: world, Wants: wants})
		return &all[len(all)-1]
	}

	for _, c := range []struct {
		inFlight int
		service  time.Duration
	}{{6, 20 * msec}, {6, 200 * msec}, {6, time.Second}, {500, 50 * msec}, {500, time.Second}} {
		for _, away := range []time.Duration{north, nextZone} {
			add(fmt.Sprintf("%d in flight of %v without a limit, next %.3g ms", c.inFlight, c.service, ms(away)), func() sim.World {
				w := calm(sim.World{
					RTT: places(away), Servers: []sim.Server{open(0, c.service), open(1, c.service)},
					Callers: []sim.Caller{{Closed: c.inFlight}},
				})
				if c.inFlight > 100 {
					w.Windows, w.End = []sim.Window{window(3, 20)}, 20*time.Second
				}
				return w
			}, stays...)
		}
	}
	add("200 streams of ten minutes, and 50 calls/s", func() sim.World {
		return calm(sim.World{
			RTT: places(nextZone, north), Servers: servers(times(2, open(0, 20*msec)), times(2, open(1, 20*msec)), times(2, open(2, 20*msec))),
			Groups: 2, Callers: []sim.Caller{{Closed: 200, Stream: 10 * time.Minute}, {Rate: 50, Group: 1}},
		})
	}, stays...)
	for _, rate := range []float64{2, 20, 200} {
		add(fmt.Sprintf("times spread widely, %v calls/s, next 1.5 ms", rate), func() sim.World {
			s := open(0, 20*msec)
			s.Spread = sim.Exponential
			far := s
			far.Place = 1
			w := calm(sim.World{RTT: places(nextZone), Servers: []sim.Server{s, far}, Callers: callers(1, rate)})
			w.Windows, w.End = []sim.Window{window(5, 300)}, 300*time.Second
			return w
		}, rarely...)
	}
	add("80 % busy, next 1.5 ms", func() sim.World {
		w := calm(sim.World{RTT: places(nextZone), Servers: servers(times(2, ten(0)), times(2, ten(1))), Callers: callers(20, 800)})
		w.Windows, w.End = []sim.Window{window(5, 120)}, 120*time.Second
		return w
	}, rarely...)
	add("80 % busy, and load reports tell of queues", func() sim.World {
		w := calm(sim.World{RTT: places(nextZone), Servers: servers(times(2, ten(0)), times(2, ten(1))), Callers: callers(20, 850)})
		for i := range w.Servers {
			w.Servers[i].Beats = true
		}
		w.Windows, w.End = []sim.Window{window(5, 120)}, 120*time.Second
		return w
	}, rarely...)
	add("slower machines near, next 1.5 ms", func() sim.World {
		near := ten(0)
		near.Service = 60 * msec
		return calm(sim.World{RTT: places(nextZone), Servers: servers(times(3, near), times(3, ten(1))), Callers: callers(20, 300)})
	}, stays...)

	over := func(away time.Duration, n int, rate float64, mod ...func(*sim.World)) func() sim.World {
		return func() sim.World {
			w := falling(sim.World{RTT: places(away), Servers: servers(times(1, ten(0)), times(4, ten(1)))}, n, rate)
			for _, m := range mod {
				m(&w)
			}
			return w
		}
	}
	back := []Want{most(Away, 1.1).in(1), most(Turns, 1)}
	near := append([]Want{within(Away, 37.5, 56), most(Mean, 30), most(P99, 150), most(Deviation, 6)}, back...)
	far := append([]Want{within(Away, 37.5, 56), most(Mean, 115), most(P99, 225), most(Deviation, 6)}, back...)
	// Callers of four calls a second learn slowly, and leave one after the other.
	slowly := append([]Want{within(Away, 36.5, 56), most(Mean, 130), most(P99, 600), most(Deviation, 6)}, most(Away, 1.1).in(1), most(Turns, 1))
	farSlowly := append([]Want{within(Away, 36.5, 56), most(Mean, 220), most(P99, 900), most(Deviation, 6)}, most(Away, 1.1).in(1), most(Turns, 1))
	for _, n := range []int{1, 20, 200} {
		near, far := near, far
		if n == 200 {
			near, far = slowly, farSlowly
		}
		add(fmt.Sprintf("%s, 800/s on 500, next 1.5 ms", some(n)), over(nextZone, n, 800), near...)
		add(fmt.Sprintf("%s, 800/s on 500, next 153 ms", some(n)), over(north, n, 800), far...)
	}
	add("20 callers, 800/s on 500, next 27 ms", over(ireland, 20, 800), append([]Want{within(Away, 37.5, 56), most(Mean, 50), most(Deviation, 6)}, back...)...)
	add("one of 8 calls is measured", over(nextZone, 20, 800), near...).Setup.Measure = 8
	add("one of 8 calls is measured, 200 callers", over(nextZone, 200, 800, func(w *sim.World) { later(w, 100*time.Second) }))
	all[len(all)-1].Setup.Measure = 8
	all[len(all)-1].Unsolved = "a caller that measures a call in five seconds learns too slowly"
	add("20 callers, 800/s on 500 of shared processors", over(nextZone, 20, 800, func(w *sim.World) {
		for i := range w.Servers {
			w.Servers[i].Kind = sim.Shared
		}
	}), append([]Want{within(Away, 37.5, 60), most(Mean, 40), most(Deviation, 6)}, back...)...)
	add("20 callers, 800/s on 500, times spread widely", over(nextZone, 20, 800, func(w *sim.World) {
		for i := range w.Servers {
			w.Servers[i].Spread = sim.Exponential
		}
	}), within(Away, 37.5, 60), most(Mean, 40), most(Deviation, 6), most(Turns, 1), most(Away, 3).in(1))
	add("a little too much: 530/s on 500", over(nextZone, 20, 530), within(Away, 5, 25), most(Mean, 40), most(Deviation, 6), most(Turns, 6), most(Away, 1.1).in(1))
	add("far too much: 1800/s on 500, 2000 next", over(nextZone, 20, 1800), append([]Want{within(Away, 72, 85), most(Mean, 35), most(P99, 100)}, back...)...)
	add("two callers of 5/s and 795/s", func() sim.World {
		w := falling(sim.World{RTT: places(nextZone), Servers: servers(times(1, ten(0)), times(4, ten(1)))}, 2, 800)
		w.Callers = []sim.Caller{{Rate: 3, Group: 0}, {Rate: 297, Group: 1}}
		w.Groups = 2
		set := func(a, b float64) func(*sim.Sim) {
			return func(s *sim.Sim) { s.SetRate(0, a); s.SetRate(1, b) }
		}
		w.Steps = []sim.Step{step(20*time.Second, set(5, 795)), step(90*time.Second, set(2, 198))}
		return w
	}, append([]Want{within(Away, 37.5, 56), most(Mean, 30), most(Mean, 40).of(1)}, back...)...)
	add("instances of different weights", func() sim.World {
		big := ten(0)
		big.Workers, big.Weight = 8, 4
		small := ten(0)
		small.Workers, small.Weight = 2, 1
		return falling(sim.World{RTT: places(nextZone), Servers: servers(times(1, big), times(1, small), times(4, ten(1)))}, 20, 800)
	}, near...)
	add("rejects above 5 waiting, next 1.5 ms", over(nextZone, 20, 800, rejecting), append([]Want{within(Away, 37, 60), most(Rejected, 2), most(Mean, 30)}, back...)...)
	add("rejects above 5 waiting, next 153 ms", over(north, 20, 800, rejecting), append([]Want{within(Away, 37, 60), most(Rejected, 2)}, back...)...)

	atOnce := func() sim.World {
		w := sim.World{RTT: places(nextZone), Servers: servers(times(1, ten(0)), times(4, ten(1))), Jitter: 0.1}
		w.Callers = append(w.Callers, sim.Caller{Rate: 20}, sim.Caller{Rate: 20})
		for range 200 {
			w.Callers = append(w.Callers, sim.Caller{Closed: 1, Start: 20 * time.Second})
		}
		w.Windows, w.End = []sim.Window{window(80, 120)}, 120*time.Second
		return w
	}
	hinted := add("200 callers with one each on ten workers, 40 next, two know the unloaded time", atOnce, within(Away, 65, 90), most(Mean, 100), most(Turns, 0))
	hinted.Setup.Hints = true
	for _, away := range []time.Duration{nextZone, north} {
		other := add(fmt.Sprintf("20 callers of slow calls, two tell of quick ones, next %.3g ms", ms(away)), func() sim.World {
			w := sim.World{RTT: places(away), Servers: servers(times(2, open(0, 2*msec)), times(2, open(1, 2*msec))), Groups: 2}
			w.Callers = append(w.Callers, sim.Caller{Rate: 20, Group: 1}, sim.Caller{Rate: 20, Group: 1})
			for range 20 {
				w.Callers = append(w.Callers, sim.Caller{Rate: 10, Work: 100, Start: 20 * time.Second})
			}
			w.Windows, w.End = []sim.Window{window(30, 150)}, 150*time.Second
			return w
		}, most(Away, 3), most(Mean, 206), most(Turns, 2))
		other.Setup.Hints = true
	}
	add("the same, load reports tell of a queue", func() sim.World {
		w := atOnce()
		for i := range w.Servers {
			w.Servers[i].Beats = true
		}
		return w
	}, within(Away, 60, 90), most(Mean, 100), most(Turns, 0))
	add("the same, no caller knows", atOnce).Unsolved = "callers that start in the overload take it for normal"

	for _, away := range []time.Duration{nextZone, north} {
		add(fmt.Sprintf("a dependency makes all 5 times slower, next %.3g ms", ms(away)), func() sim.World {
			w := calm(sim.World{
				RTT: places(away), Servers: servers(times(2, open(0, 40*msec)), times(4, open(1, 40*msec))),
				Callers: callers(20, 400), Steps: []sim.Step{slow(30*time.Second, 5)},
			})
			w.Windows, w.End = []sim.Window{window(30, 120)}, 120*time.Second
			return w
		}, most(Away, 4), most(Mean, 208))
	}
	add("900/s on 500, 500 next", func() sim.World {
		return falling(sim.World{RTT: places(nextZone), Servers: servers(times(1, ten(0)), times(1, ten(1)))}, 20, 900)
	}, append([]Want{within(Away, 44, 56), most(Mean, 45), most(P99, 200)}, back...)...)
	add("equal distress: 100 callers with one each on 500 + 500", func() sim.World {
		w := sim.World{RTT: places(nextZone), Servers: servers(times(1, ten(0)), times(1, ten(1))), Jitter: 0.1}
		for i := range 100 {
			w.Callers = append(w.Callers, sim.Caller{Closed: 1, Start: time.Duration(i) * 200 * msec})
		}
		w.Windows, w.End = []sim.Window{window(60, 120)}, 120*time.Second
		return w
	}, within(Away, 35, 60), most(Mean, 115), most(P99, 250), most(Turns, 0), least(Rate, 900))
	add("equal distress: all reject, 1400/s on 500 + 500", func() sim.World {
		w := falling(sim.World{RTT: places(nextZone), Servers: servers(times(1, ten(0)), times(1, ten(1)))}, 20, 1400)
		rejecting(&w)
		return w
	}, within(Away, 40, 60), most(Rejected, 33), most(Turns, 3), most(Deviation, 4), most(Away, 1.1).in(1))

	dies := func(rate float64) func() sim.World {
		return func() sim.World {
			return sim.World{
				RTT: places(north), Jitter: 0.1, Retries: 2, Servers: servers(times(2, ten(0)), times(2, ten(1))), Callers: callers(20, rate),
				Steps: []sim.Step{
					step(30*time.Second, func(s *sim.Sim) { s.Kill(0) }), step(45*time.Second, func(s *sim.Sim) { s.Unlist(0) }),
					step(80*time.Second, func(s *sim.Sim) { s.Start(0) }),
				},
				Windows: []sim.Window{window(30, 80), window(55, 80), window(110, 130)}, End: 130 * time.Second,
			}
		}
	}
	add("one of two near dies, the other has room", dies(350), most(Away, 0.5), most(Failed, 0.1), most(Mean, 30))
	add("one of two near dies, the other has not", dies(800), within(Away, 30, 50), most(Failed, 0.1), within(Away, 36, 45).in(1), most(Turns, 0).in(1), most(Mean, 115).in(1), most(Away, 1.1).in(2))
	add("the zone dies and comes back new", func() sim.World {
		return sim.World{
			RTT: places(north), Jitter: 0.1, Retries: 2, Servers: servers(times(2, ten(0)), times(2, ten(1))), Callers: callers(20, 400),
			Steps: []sim.Step{
				step(20*time.Second, func(s *sim.Sim) { s.Kill(0); s.Kill(1); s.Unlist(0); s.Unlist(1) }),
				step(40*time.Second, func(s *sim.Sim) { s.Start(0); s.Start(1) }),
			},
			Windows: []sim.Window{window(40, 44), window(80, 100)}, End: 100 * time.Second,
		}
	}, within(Away, 70, 97), most(Away, 0.5).in(1))
	add("the near one slows to a third, and recovers", func() sim.World {
		return sim.World{
			RTT: places(nextZone), Jitter: 0.1, Servers: servers(times(1, ten(0)), times(2, ten(1))), Callers: callers(20, 300),
			Steps:   []sim.Step{step(20*time.Second, func(s *sim.Sim) { s.SetSlow(0, 3) }), step(80*time.Second, func(s *sim.Sim) { s.SetSlow(0, 1) })},
			Windows: []sim.Window{window(40, 80), window(120, 150)}, End: 150 * time.Second,
		}
	}, least(Away, 40), most(Mean, 45), most(Turns, 0), most(Away, 2).in(1))
	add("the next circle dies while it helps", func() sim.World {
		w := falling(sim.World{RTT: places(nextZone, north), Retries: 2, Servers: servers(times(1, ten(0)), times(2, ten(1)), times(2, ten(2)))}, 20, 800)
		w.Steps = append(w.Steps, step(40*time.Second, func(s *sim.Sim) { s.Kill(1); s.Kill(2); s.Unlist(1); s.Unlist(2) }))
		return w
	}, within(Away, 35, 56), most(Failed, 0.1), most(Turns, 1), most(Away, 1.1).in(1))
	add("zone and region are full", func() sim.World {
		return falling(sim.World{RTT: places(nextZone, north), Servers: servers(times(1, ten(0)), times(1, ten(1)), times(4, ten(2)))}, 20, 1400)
	}, within(Away, 62, 75), most(Mean, 150), most(Turns, 2), most(Away, 1.1).in(1))
	// Both places are 95 % busy: what one rids itself of is soon too much for the other,
	// and the share sways by a tenth now and then.
	add("the next region has callers of its own", func() sim.World {
		w := falling(sim.World{RTT: places(ireland), Servers: servers(times(1, ten(0)), times(1, ten(1)))}, 20, 700)
		w.Groups = 2
		for range 20 {
			w.Callers = append(w.Callers, sim.Caller{Place: 1, Rate: 15, Group: 1})
		}
		mine := func(rate float64) func(*sim.Sim) {
			return func(s *sim.Sim) {
				for i := range 20 {
					s.SetRate(i, rate/20)
				}
			}
		}
		w.Steps = []sim.Step{step(20*time.Second, mine(650)), step(90*time.Second, mine(200))}
		return w
	}, within(Away, 20, 40).of(1), most(Away, 2).of(2), most(Mean, 150), most(Turns, 6), most(Deviation, 6), most(Away, 1.1).in(1))

	add("620/s on 500, never to the next", over(nextZone, 20, 620), most(Away, 0)).Setup.Price = []time.Duration{0, never}
	add("800/s on 500, next 1.5 ms for 40 ms", over(nextZone, 20, 800), append([]Want{within(Away, 37.5, 56)}, back...)...).Setup.Price = []time.Duration{0, 40 * msec}
	return all
}

// rejecting makes all servers reject what would wait behind five others.
func rejecting(w *sim.World) {
	for i := range w.Servers {
		w.Servers[i].Queue = 5
	}
}

// later lets a world be calm for longer at first.
func later(w *sim.World, by time.Duration) {
	for i := range w.Steps {
		w.Steps[i].At += by
	}
	for i := range w.Windows {
		w.Windows[i].From += by
		w.Windows[i].To += by
	}
	w.End += by
}

func some(callers int) string {
	if callers == 1 {
		return "1 caller"
	}
	return fmt.Sprint(callers, " callers")
}
