package kv

import (
	"sync"
	"sync/atomic"
	"time"
)

// clockAge is how long one reading of the server's clock is preferred to later
// ones that are behind it.
const clockAge = 5 * time.Minute

// clock is the server's, as far as changes tell it that are heard as they
// happen: each bears the time at which it was stored. Until then it is ours as
// it was at the start. It goes on evenly whatever happens to ours.
type clock struct {
	start time.Time // with the monotonic clock

	mu    sync.Mutex    // guards what follows
	ahead time.Duration // how far the server's is ahead of ours
	heard time.Time     // when that was learned; zero: it is not known
}

// local is our clock without its jumps.
func (c *clock) local() time.Time { return c.start.Add(time.Since(c.start)) }

// hear takes in a change that was stored at that time, Unix nanoseconds. It has
// been under way since, so the one that is ahead most is the closest.
func (c *clock) hear(at int64) {
	ahead := time.Duration(at - c.local().UnixNano())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard.IsZero() || ahead >= c.ahead || time.Since(c.heard) > clockAge {
		c.ahead, c.heard = ahead, time.Now()
	}
}

// Now is the time by the server's clock, as far as changes have told it, and by
// ours as it was when the registry was opened until then. What instances say of
// themselves, as [events.Instance].Started, is to be compared with that: our own
// clock may be wrong, and it may jump.
func (r *Registry) Now() time.Time {
	c := &r.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.local().Add(c.ahead)
}

// throttle lets one line a minute into the log, of what may come by thousands.
type throttle struct{ last atomic.Int64 } // since the start of the clock; 0: never

// allows says whether that is now. A clock that is set back silences nobody.
func (t *throttle) allows(c *clock) bool {
	now := max(1, int64(time.Since(c.start)))
	last := t.last.Load()
	return (last == 0 || now-last > int64(time.Minute)) && t.last.CompareAndSwap(last, now)
}
