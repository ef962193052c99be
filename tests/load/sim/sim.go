package sim

import (
	"math/rand/v2"
	"time"
)

// event is something that happens at a time. Events of the same time happen in the order
// in which they were planned.
type event struct {
	at   time.Duration
	seq  uint64
	what what
	i    int // of the server, caller or step
	gen  int // of a server's plan, or of a caller's rate
	call *Call
}

type what uint8

const (
	comes   what = iota // a caller of a rate makes a call
	arrives             // a call is at its server
	ends                // a server has ended a call, or, of kind Shared, may have
	answers             // the head of an answer is at its caller
	closes              // a stream ends
	looks
	steps
)

// plan is a heap of events. (container/heap would allocate one for each.)
type plan []event

func (p plan) before(i, k int) bool {
	return p[i].at < p[k].at || p[i].at == p[k].at && p[i].seq < p[k].seq
}

func (p *plan) push(e event) {
	*p = append(*p, e)
	h := *p
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(i, up) {
			break
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (p *plan) pop() event {
	h := *p
	top, n := h[0], len(h)-1
	h[0] = h[n]
	h[n] = event{}
	h = h[:n]
	for i := 0; ; {
		least := i
		for _, k := range [2]int{2*i + 1, 2*i + 2} {
			if k < n && h.before(k, least) {
				least = k
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	*p = h
	return top
}

// Sim is a world at a time.
type Sim struct {
	World World
	Now   time.Duration

	// Slow is by how much longer each call takes, at all servers.
	Slow float64

	rand    *rand.Rand
	plan    plan
	seq     uint64
	servers []server
	rates   []float64
	gens    []int
	free    []*Call
	picker  Picker
	result  Result
}

// New returns a world at its beginning.
func New(w World, seed uint64) *Sim {
	w.Groups = max(1, w.Groups)
	s := &Sim{World: w, Slow: 1, rand: rand.New(rand.NewPCG(seed, 0x70726f78696d61))}
	for i := range w.Servers {
		s.servers = append(s.servers, server{Server: w.Servers[i], slow: 1, dead: w.Servers[i].Away, listed: !w.Servers[i].Away, since: -time.Hour})
	}
	s.result = newResult(w)
	return s
}

// Rand is the source of chance of the run.
func (s *Sim) Rand() *rand.Rand { return s.rand }

func (s *Sim) push(after time.Duration, e event) {
	s.seq++
	e.at, e.seq = s.Now+max(0, after), s.seq
	s.plan.push(e)
}

// Run lets the world live until its end.
func (s *Sim) Run(p Picker) Result {
	s.picker = p
	s.rates, s.gens = make([]float64, len(s.World.Callers)), make([]int, len(s.World.Callers))
	for i, c := range s.World.Callers {
		s.rates[i] = c.Rate
		if c.Rate > 0 {
			s.push(c.Start+between(s.rand, c.Rate), event{what: comes, i: i})
		}
		for range c.Closed {
			s.push(c.Start+time.Duration(s.rand.Int64N(int64(50*time.Millisecond))), event{what: comes, i: i, gen: -1})
		}
		if _, ok := p.(Looker); ok {
			s.push(time.Duration(s.rand.Int64N(int64(LookEvery))), event{what: looks, i: i})
		}
	}
	for i, step := range s.World.Steps {
		s.push(step.At, event{what: steps, i: i})
	}
	for len(s.plan) > 0 {
		e := s.plan.pop()
		if e.at > s.World.End {
			break
		}
		if s.World.Sleep != nil && e.at > s.Now {
			s.World.Sleep(e.at)
		}
		s.Now = e.at
		s.happen(e)
	}
	return s.result
}

func (s *Sim) happen(e event) {
	switch e.what {
	case comes:
		if e.gen < 0 {
			s.begin(e.i, s.Now, 0, -1)
		} else if e.gen == s.gens[e.i] {
			s.push(between(s.rand, s.rates[e.i]), event{what: comes, i: e.i, gen: e.gen})
			s.begin(e.i, s.Now, 0, -1)
		}
	case arrives:
		s.arrive(e.call)
	case ends:
		s.servers[e.i].end(s, e.i, e.call, e.gen)
	case answers:
		s.answered(e.call)
	case closes:
		s.close(e.call)
	case looks:
		s.picker.(Looker).Look(e.i, s.Now)
		s.push(LookEvery, event{what: looks, i: e.i})
	case steps:
		s.World.Steps[e.i].Do(s)
	}
}

func (s *Sim) begin(caller int, first time.Duration, attempt, avoid int) {
	var c *Call
	if n := len(s.free); n > 0 {
		c, s.free = s.free[n-1], s.free[:n-1]
	} else {
		c = new(Call)
	}
	from := &s.World.Callers[caller]
	*c = Call{Caller: caller, Attempt: attempt, Avoid: avoid, Now: s.Now, Begun: s.Now, first: first, group: from.Group, stream: from.Stream}
	c.Instance = s.picker.Pick(c)
	if c.Instance < 0 {
		s.result.ended(c, s, false)
		s.again(c)
		s.free = append(s.free, c)
		return
	}
	s.result.picked(c, s)
	s.push(s.way(c), event{what: arrives, call: c})
}

// way is half a round trip.
func (s *Sim) way(c *Call) time.Duration {
	rtt := s.Distance(c.Caller, c.Instance)
	return time.Duration(float64(rtt) / 2 * (1 + s.World.Jitter*s.rand.Float64()))
}

// Distance is the round trip between a caller and an instance.
func (s *Sim) Distance(caller, instance int) time.Duration {
	return s.World.RTT[s.World.Callers[caller].Place][s.World.Servers[instance].Place]
}

func (s *Sim) arrive(c *Call) {
	v := &s.servers[c.Instance]
	switch {
	case v.dead:
		s.answer(c, Failed)
	case v.full():
		s.answer(c, Rejected)
	default:
		c.work = v.Service.Seconds() * v.Spread.draw(s.rand) * v.slow * s.Slow
		if w := s.World.Callers[c.Caller].Work; w > 0 {
			c.work *= w
		}
		v.take(s, c.Instance, c)
	}
}

// answer sends the head of an answer on its way.
func (s *Sim) answer(c *Call, o Outcome) {
	c.Outcome = o
	s.push(s.way(c), event{what: answers, call: c})
}

func (s *Sim) answered(c *Call) {
	c.Now = s.Now
	s.picker.Head(c)
	if c.Outcome == OK && c.stream > 0 {
		s.result.ended(c, s, true)
		s.push(c.stream, event{what: closes, call: c})
		return
	}
	s.picker.End(c)
	if c.Outcome != OK && c.Attempt < s.World.Retries {
		s.begin(c.Caller, c.first, c.Attempt+1, c.Instance)
	} else {
		s.result.ended(c, s, true)
		s.again(c)
	}
	s.free = append(s.free, c)
}

func (s *Sim) close(c *Call) {
	c.Now = s.Now
	s.picker.End(c)
	s.again(c)
	s.free = append(s.free, c)
}

// again makes the next call of a closed loop, at once; after a failure a little later.
func (s *Sim) again(c *Call) {
	if s.World.Callers[c.Caller].Closed == 0 {
		return
	}
	wait := time.Duration(0)
	if c.Outcome != OK || c.Instance < 0 {
		wait = 10 * time.Millisecond
	}
	s.push(wait, event{what: comes, i: c.Caller, gen: -1})
}

// SetRate changes the rate of a caller.
func (s *Sim) SetRate(caller int, rate float64) {
	s.gens[caller]++
	s.rates[caller] = rate
	if rate > 0 {
		s.push(between(s.rand, rate), event{what: comes, i: caller, gen: s.gens[caller]})
	}
}

// SetSlow changes by how much longer the calls of a server take from now on.
func (s *Sim) SetSlow(instance int, slow float64) { s.servers[instance].slow = slow }

// Kill ends a server: its calls fail, and the next ones.
func (s *Sim) Kill(instance int) {
	v := &s.servers[instance]
	v.dead = true
	v.gen++
	for _, c := range v.calls() {
		s.answer(c, Failed)
	}
	v.clear()
}

// Start starts a server that is dead. It is listed from now on.
func (s *Sim) Start(instance int) {
	v := &s.servers[instance]
	v.dead, v.listed, v.since = false, true, s.Now
	v.gen++
}

// Unlist takes a server out of the list of the registry.
func (s *Sim) Unlist(instance int) { s.servers[instance].listed = false }

// Listed reports whether the registry lists a server, and since when it runs.
func (s *Sim) Listed(instance int) (since time.Duration, ok bool) {
	return s.servers[instance].since, s.servers[instance].listed
}

// Queued reports what a server last said about calls that wait.
func (s *Sim) Queued(instance int) bool { return s.servers[instance].queued(s.Now) }
