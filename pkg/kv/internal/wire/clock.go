package wire

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// clockAge is how long one reading of the server's clock is preferred to later
// ones that are behind it.
const clockAge = 5 * time.Minute

// Clock estimates the server's clock from changes that are heard as they happen: each
// bears the time at which the server stored it. Before the first change it is our own
// clock as it was at the start. Jumps of our own clock do not change it.
type Clock struct {
	start time.Time // with the monotonic clock

	mu    sync.Mutex    // guards what follows
	ahead time.Duration // how far the server's is ahead of ours
	heard time.Time     // when that was learned; zero: it is not known
}

// local is our clock without its jumps.
func (c *Clock) local() time.Time { return c.start.Add(time.Since(c.start)) }

// Hear takes in a change that was stored at that time, Unix nanoseconds. The change has
// been under way since, so the reading that is furthest ahead is the best one.
func (c *Clock) Hear(at int64) {
	ahead := time.Duration(at - c.local().UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard.IsZero() || ahead >= c.ahead || time.Since(c.heard) > clockAge {
		c.ahead, c.heard = ahead, time.Now()
	}
}

// Throttle lets one line a minute into the log, of an event that may be frequent.
type Throttle struct{ last atomic.Int64 } // since the start of the clock; 0: never

// Allows reports whether that is now. A clock that is set back silences no line.
func (t *Throttle) Allows(c *Clock) bool {
	now := max(1, int64(time.Since(c.start)))
	last := t.last.Load()
	return (last == 0 || now-last > int64(time.Minute)) && t.last.CompareAndSwap(last, now)
}

// NewClock is a clock that has heard nothing yet.
func NewClock() *Clock { return &Clock{start: time.Now()} }

// Now is the server's time, as far as it is known.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.local().Add(c.ahead)
}

// Jitter is d, give or take a tenth.
func Jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}
