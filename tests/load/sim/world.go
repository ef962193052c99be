// Package sim simulates callers that call instances, event by event: servers with queues,
// calls that come at a rate or one after the other, and ways between them. A [Picker]
// decides where each call goes. Runs with the same seed are the same.
//
// There is one loop and no goroutine. Time is what the events say. With [World.Sleep] the
// loop waits for it, so that what has timers of its own, as the selector in a bubble of
// testing/synctest, can be the Picker.
package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// Kind is how a server divides itself among its calls.
type Kind uint8

// The kinds.
const (
	Unlimited Kind = iota // each call takes its service time, however many there are
	FIFO                  // workers take one call after the other from a queue
	Shared                // workers' time is shared by all calls
)

// Spread is how service times differ from call to call.
type Spread uint8

// The spreads.
const (
	Half        Spread = iota // evenly, by up to a half more or less
	Exponential               // many short ones, few long ones
	Constant
)

// Server is an instance.
type Server struct {
	Place   int
	Weight  float64 // 0: 1
	Kind    Kind
	Workers int
	Service time.Duration // mean
	Spread  Spread
	Queue   int  // longest queue; what comes then is rejected at once; 0: no limit
	Beats   bool // it reports whether calls wait, once a second
	Away    bool // it begins unlisted and dead
}

// Caller makes calls of one kind.
type Caller struct {
	Place  int
	Group  int           // results are per group
	Rate   float64       // calls a second that come by themselves, or
	Closed int           // calls in flight, each followed by the next
	Start  time.Duration // of the first call
	Stream time.Duration // the answer stays open for so long after its head
	Work   float64       // of its calls, seen from those that others make; 0: 1
}

// Step changes the world at a time.
type Step struct {
	At time.Duration
	Do func(*Sim)
}

// Window is a part of the time that results are for.
type Window struct{ From, To time.Duration }

// World is what is simulated.
type World struct {
	RTT     [][]time.Duration // from place to place
	Jitter  float64           // of each way, part of the RTT: evenly, up to that more
	Servers []Server
	Callers []Caller
	Groups  int // of callers; 0: 1
	Retries int // attempts after one that was rejected or failed
	Steps   []Step
	Windows []Window
	End     time.Duration
	Sleep   func(until time.Duration) // nil: time passes by itself
}

// Outcome is how an attempt ended.
type Outcome uint8

// The outcomes.
const (
	OK       Outcome = iota
	Rejected         // the server asks for fewer calls
	Failed           // there is no server
)

// Call is one attempt of a call.
type Call struct {
	Caller   int
	Instance int
	Attempt  int // 0 is the first
	Avoid    int // instance that the attempt before had; -1: none
	Now      time.Duration
	Begun    time.Duration // of this attempt
	Outcome  Outcome
	Handle   any // for the Picker

	first  time.Duration // begin of the first attempt
	work   float64       // seconds
	group  int
	stream time.Duration
}

// Took is how long the attempt has taken until now.
func (c *Call) Took() time.Duration { return c.Now - c.Begun }

// Picker decides where calls go.
type Picker interface {
	// Pick returns the instance for a call, or -1.
	Pick(c *Call) int
	// Head is when the head of the answer is there.
	Head(c *Call)
	// End is when the answer has ended, for all but streams at the same time.
	End(c *Call)
}

// Looker is a Picker that looks at what happens five times a second, for each caller at
// another moment.
type Looker interface {
	Look(caller int, now time.Duration)
}

// LookEvery is the time between two looks of a [Looker].
const LookEvery = 200 * time.Millisecond

func (s Spread) draw(r *rand.Rand) float64 {
	switch s {
	case Exponential:
		return r.ExpFloat64()
	case Constant:
		return 1
	}
	return 0.5 + r.Float64()
}

// between is the time until the next of events that come at a rate.
func between(r *rand.Rand, rate float64) time.Duration {
	return time.Duration(min(r.ExpFloat64()/rate, 1e6) * float64(time.Second))
}

func seconds(s float64) time.Duration { return time.Duration(math.Ceil(s * float64(time.Second))) }
