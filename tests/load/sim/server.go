package sim

import (
	"math"
	"time"
)

// server is a [Server] at a time.
type server struct {
	Server
	slow   float64
	dead   bool
	listed bool
	since  time.Duration
	gen    int // changes with each plan that is void

	running int
	waiting []*Call
	head    int // of waiting

	// Of kind Shared: each call gets the same, so the one with the least left at its
	// begin, on a clock that runs slower the more calls there are, ends first.
	sharing []*Call // a heap by work, which is the reading of the clock at its end
	clock   float64
	read    time.Duration

	busyCalls map[*Call]struct{} // a worker has them, for Kill

	said   bool
	saidAt time.Duration
}

func (v *server) queue() int { return len(v.waiting) - v.head }

func (v *server) full() bool {
	if v.Queue == 0 {
		return false
	}
	if v.Kind == Shared {
		return len(v.sharing) >= v.Queue+v.Workers
	}
	return v.running >= v.Workers && v.queue() >= v.Queue
}

// queued is what the server said in its last beat. They come once a second.
func (v *server) queued(now time.Duration) bool {
	if !v.Beats {
		return false
	}
	if now-v.saidAt >= time.Second {
		v.said, v.saidAt = v.queue() > 0 || v.Kind == Shared && len(v.sharing) > v.Workers, now
	}
	return v.said
}

func (v *server) take(s *Sim, i int, c *Call) {
	switch v.Kind {
	case Unlimited:
		v.work(s, i, c)
	case FIFO:
		if v.running < v.Workers {
			v.work(s, i, c)
		} else {
			v.waiting = append(v.waiting, c)
		}
	case Shared:
		v.tick(s.Now)
		c.work += v.clock
		v.add(c)
		v.next(s, i)
	}
}

func (v *server) work(s *Sim, i int, c *Call) {
	v.running++
	if v.busyCalls == nil {
		v.busyCalls = make(map[*Call]struct{})
	}
	v.busyCalls[c] = struct{}{}
	s.push(seconds(c.work), event{what: ends, i: i, call: c, gen: v.gen})
}

func (v *server) end(s *Sim, i int, c *Call, gen int) {
	if gen != v.gen {
		return
	}
	if v.Kind == Shared {
		v.tick(s.Now)
		for len(v.sharing) > 0 && v.sharing[0].work <= v.clock+1e-12 {
			s.answer(v.remove(), OK)
		}
		v.next(s, i)
		return
	}
	v.running--
	delete(v.busyCalls, c)
	s.answer(c, OK)
	if v.Kind == FIFO && v.queue() > 0 {
		next := v.waiting[v.head]
		v.waiting[v.head] = nil
		v.head++
		if v.head > 1000 && v.head > len(v.waiting)/2 {
			v.waiting, v.head = append(v.waiting[:0], v.waiting[v.head:]...), 0
		}
		v.work(s, i, next)
	}
}

// speed is how much of a worker each call has.
func (v *server) speed() float64 {
	return min(1, float64(v.Workers)/float64(max(1, len(v.sharing))))
}

func (v *server) tick(now time.Duration) {
	v.clock += (now - v.read).Seconds() * v.speed()
	v.read = now
}

// next plans the end of the call that ends first. The plan before is void.
func (v *server) next(s *Sim, i int) {
	v.gen++
	if len(v.sharing) > 0 {
		s.push(seconds(max(0, v.sharing[0].work-v.clock)/v.speed()), event{what: ends, i: i, gen: v.gen})
	}
}

func (v *server) add(c *Call) {
	v.sharing = append(v.sharing, c)
	for i := len(v.sharing) - 1; i > 0; {
		up := (i - 1) / 2
		if v.sharing[up].work <= v.sharing[i].work {
			break
		}
		v.sharing[up], v.sharing[i] = v.sharing[i], v.sharing[up]
		i = up
	}
}

func (v *server) remove() *Call {
	top, n := v.sharing[0], len(v.sharing)-1
	v.sharing[0] = v.sharing[n]
	v.sharing = v.sharing[:n]
	for i := 0; ; {
		least, work := i, math.Inf(1)
		if i < n {
			work = v.sharing[i].work
		}
		for _, k := range [2]int{2*i + 1, 2*i + 2} {
			if k < n && v.sharing[k].work < work {
				least, work = k, v.sharing[k].work
			}
		}
		if least == i {
			return top
		}
		v.sharing[i], v.sharing[least] = v.sharing[least], v.sharing[i]
		i = least
	}
}

// calls are all that the server has.
func (v *server) calls() (calls []*Call) {
	calls = append(calls, v.waiting[v.head:]...)
	calls = append(calls, v.sharing...)
	for c := range v.busyCalls {
		calls = append(calls, c)
	}
	return calls
}

func (v *server) clear() {
	v.running, v.waiting, v.head, v.sharing, v.busyCalls = 0, nil, 0, nil, nil
}
