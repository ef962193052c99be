package breaker

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// circuit is the part of a [Breaker] that only a failing instance needs. Breaker.mu
// guards all of it. gobreaker is called with that lock held, so the order of locks is
// always the same.
type circuit struct {
	settings  Settings // with defaults
	gobreaker *gobreaker.TwoStepCircuitBreaker[struct{}]
	outcome   outcome       // of the call that is being counted; gobreaker reads it instead of an error
	after     time.Duration // how long the instance asked to be left alone, if the outcome is rejected

	renew    bool          // gobreaker is that of another window: there is a new one when it closes
	began    time.Time     // the state; there gobreaker's buckets begin too
	step     time.Duration // the length of a bucket
	buckets  int64         // how many a failure counts in, 0 without a ratio
	bucket   int64         // that report counts in
	report   func(error)   // gobreaker's, for all calls of a bucket; nil: none yet
	failedIn int64         // the bucket of the last failure
	inARow   int           // failures since the last success

	trials    []trial // not reported yet, oldest first
	lastTrial uint64

	opened  Opening
	openFor time.Duration // the last time, without the random part; 0: not since it closed
	timer   *time.Timer   // one for both opened.Until and the oldest trial's deadline
	firing  int           // calls of onTimer that are due or running

	changes   []change  // not reported to OnChange yet
	notifying bool      // a goroutine is calling OnChange, and will report the rest
	idle      sync.Cond // firing or notifying has fallen
}

type trial struct {
	ticket   uint64
	done     func(error)
	deadline time.Time
}

type change struct{ from, to State }

// windowBuckets is how many steps a window has.
const windowBuckets = 10

func newCircuit(b *Breaker) *circuit {
	c := &circuit{}
	if b.settings != nil {
		c.settings = *b.settings
	}
	c.settings = c.settings.withDefaults()
	c.idle.L = &b.mu
	c.renewWindow(b)
	c.began = time.Now()
	return c
}

// set replaces the settings.
func (c *circuit) set(b *Breaker, s *Settings) {
	old := c.settings
	c.settings = Settings{}
	if s != nil {
		c.settings = *s
	}
	c.settings = c.settings.withDefaults()
	c.settings.OnChange = old.OnChange
	if (c.settings.FailureRatio > 0) == (old.FailureRatio > 0) && c.settings.Window == old.Window && c.settings.Trials == old.Trials {
		return
	}
	if c.renew = true; b.State() == Closed {
		c.renewWindow(b)
		c.began = time.Now()
	}
}

// renewWindow makes a gobreaker for the settings, which is closed.
func (c *circuit) renewWindow(b *Breaker) {
	c.renew, c.report, c.failedIn, c.buckets, c.step = false, nil, 0, 0, math.MaxInt64
	s := gobreaker.Settings{
		MaxRequests:  uint32(min(int64(c.settings.Trials), math.MaxUint32)),
		Timeout:      1, // the timer decides; it asks gobreaker when the time has come
		ReadyToTrip:  c.readyToTrip,
		IsExcluded:   func(error) bool { return c.outcome == excluded },
		IsSuccessful: func(error) bool { return c.outcome == success },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			b.changeLocked(stateFrom(from), stateFrom(to))
		},
	}
	if c.settings.FailureRatio > 0 {
		c.buckets, c.step = windowBuckets, max(c.settings.Window/windowBuckets, 1)
		s.Interval, s.BucketPeriod = windowBuckets*c.step, c.step
	}
	c.gobreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](s)
}

func (c *circuit) readyToTrip(n gobreaker.Counts) bool {
	return c.outcome >= refused || c.inARow >= c.settings.Failures || c.tooMany(n)
}

func (c *circuit) tooMany(n gobreaker.Counts) bool {
	failed, all := int64(n.TotalFailures), int64(n.TotalFailures)+int64(n.TotalSuccesses)
	return c.buckets > 0 && all >= int64(c.settings.MinCalls) && float64(failed) >= c.settings.FailureRatio*float64(all)
}

func stateFrom(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	default:
		return Closed
	}
}

// count counts the end of a call that was allowed without gobreaker. It returns whether a
// failure still counts, so that the next success must be counted too. A success that finds
// none only ends a row.
//
// All calls that end in one bucket use the function that gobreaker gave for the first: it
// counts each report, and one more takes half the time of a new function.
func (c *circuit) count(o outcome, after time.Duration) (failed bool) {
	if o <= slow {
		c.inARow = 0
	} else {
		c.inARow++
	}
	bucket := int64(time.Since(c.began) / c.step)
	if o != success {
		c.failedIn = bucket
	} else if bucket-c.failedIn >= c.buckets {
		return false
	}
	if c.report == nil || c.bucket != bucket {
		report, err := c.gobreaker.Allow()
		if err != nil {
			return false // never: it is closed
		}
		c.report, c.bucket = report, bucket
	}
	c.outcome, c.after = o, after
	c.report(nil)
	return true
}

// startTrial takes a slot of the half-open circuit, if there is one. The ticket is a
// number of its own, marked so that it equals no word.
func (c *circuit) startTrial() (ticket uint64, ok bool) {
	done, err := c.gobreaker.Allow()
	if err != nil {
		return 0, false
	}
	c.lastTrial++
	ticket = c.lastTrial*generation | trialBit
	c.trials = append(c.trials, trial{ticket, done, time.Now().Add(c.settings.TrialTimeout)})
	return ticket, true
}

// endTrial returns false for a trial that was reported before, gave its slot back, or
// began before the last change of state.
func (c *circuit) endTrial(ticket uint64, o outcome, after time.Duration) bool {
	i := slices.IndexFunc(c.trials, func(t trial) bool { return t.ticket == ticket })
	if i < 0 {
		return false
	}
	done := c.trials[i].done
	c.trials = slices.Delete(c.trials, i, i+1)
	c.outcome, c.after = o, after
	done(nil)
	return true
}

// changeLocked is called by gobreaker when its state changes.
func (b *Breaker) changeLocked(from, to State) {
	c := b.circuit
	c.trials, c.report = nil, nil // of the state that has ended
	c.began = time.Now()
	switch to {
	case Open:
		c.open(from)
	case Closed:
		c.openFor = 0
		if c.renew {
			c.renewWindow(b)
		}
	}
	c.inARow = 0
	next := b.word.Load()/generation + 1
	b.word.Store(next*generation | uint64(to))
	if c.settings.OnChange != nil {
		c.changes = append(c.changes, change{from, to})
	}
}

// open decides how long it is open, and why.
func (c *circuit) open(from State) {
	var d time.Duration
	if c.outcome == rejected {
		d = min(c.after, c.settings.MaxOpenFor)
	} else {
		c.openFor = min(max(c.settings.OpenFor, 2*c.openFor), c.settings.MaxOpenFor)
		fifth := c.openFor / 5
		d = c.openFor - fifth + rand.N(2*fifth+1)
	}
	c.opened = Opening{At: c.began, Until: c.began.Add(max(d, 2)), Why: ByFailures} // gobreaker's Timeout is less than 2
	switch {
	case c.outcome == rejected:
		c.opened.Why = ByRequest
	case c.outcome == refused:
		c.opened.Why = ByRefusal
	case from == Closed && c.inARow < c.settings.Failures:
		c.opened.Why = ByRatio
	}
}

// scheduleLocked sets the timer for what is due next, if anything is.
func (b *Breaker) scheduleLocked() {
	c := b.circuit
	var due time.Time
	switch {
	case b.State() == Open:
		due = c.opened.Until
	case len(c.trials) > 0:
		due = c.trials[0].deadline
	default:
		c.stopTimer()
		return
	}
	switch {
	case c.timer == nil:
		c.timer = time.AfterFunc(time.Until(due), b.onTimer)
		c.firing++
	case !c.timer.Reset(time.Until(due)):
		c.firing++
	}
}

func (c *circuit) stopTimer() {
	if c.timer != nil && c.timer.Stop() {
		c.firing--
	}
}

// onTimer does what is due. That is nothing if the timer was set anew meanwhile.
func (b *Breaker) onTimer() {
	b.mu.Lock()
	c := b.circuit
	defer func() {
		c.firing--
		c.idle.Broadcast()
		b.mu.Unlock()
	}()
	if b.word.Load()&endedBit == 0 {
		now := time.Now()
		if b.State() == Open && !now.Before(c.opened.Until) {
			c.gobreaker.State() // turns half-open
		}
		for len(c.trials) > 0 && !c.trials[0].deadline.After(now) {
			c.endTrial(c.trials[0].ticket, excluded, 0)
		}
		b.scheduleLocked()
		b.notifyLocked()
	}
}

// notifyLocked calls OnChange for every change that was not reported yet, without the
// lock. Changes that are made meanwhile, also by OnChange itself, are reported by the
// same goroutine afterwards.
func (b *Breaker) notifyLocked() {
	c := b.circuit
	for !c.notifying && len(c.changes) > 0 {
		next := c.changes[0]
		c.changes = c.changes[1:]
		b.notifyOneLocked(next)
	}
}

func (b *Breaker) notifyOneLocked(ch change) {
	c := b.circuit
	c.notifying = true
	b.mu.Unlock()
	defer func() { // also when OnChange panics
		b.mu.Lock()
		c.notifying = false
		c.idle.Broadcast()
	}()
	c.settings.OnChange(b.key, ch.from, ch.to)
}

// end stops the timer, and waits for calls of onTimer and OnChange.
func (c *circuit) end() {
	c.trials, c.changes = nil, nil
	c.stopTimer()
	for c.firing > 0 || c.notifying {
		c.idle.Wait()
	}
}
