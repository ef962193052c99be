package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

// Calls of a healthy instance do not reach gobreaker, and that changes no state: a program
// of calls, ends of calls and sleeps runs on a Breaker, and on a plain gobreaker that gets
// all of them. How long it stays open is tested elsewhere: here the Breaker tells it.
//
// With a ratio, plain gobreaker begins at the first failure, gets no success that ends when
// no failure is in the window, and counts a call when it ends. It does not know rows that
// are longer than the window, so these are counted here.

func TestItAgreesWithPlainGobreakerOnRandomPrograms(t *testing.T) {
	seen := make(map[string]int)
	for seed := range uint64(1000) {
		program := randomProgram(seed)
		synctest.Test(t, func(t *testing.T) { runOnBoth(t, program, seen) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	// A program that never opened a circuit would prove nothing.
	for _, what := range []string{
		"allowed: closed", "allowed: half-open", "denied: open", "denied: half-open",
		"closed to open", "open to half-open", "half-open to open", "half-open to closed",
		"late: call", "late: trial", "trial lost", "trial reported again", "opened by ratio", "rejected", "success not counted",
	} {
		if seen[what] < 100 {
			t.Errorf("%q happened %d times, want 100 at least", what, seen[what])
		}
	}
	t.Log(seen)
}

func FuzzItAgreesWithPlainGobreaker(f *testing.F) {
	for seed := range uint64(10) {
		f.Add(randomProgram(seed))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		program = program[:min(len(program), 2000)] // more takes long and finds nothing new
		synctest.Test(t, func(t *testing.T) { runOnBoth(t, program, make(map[string]int)) })
	})
}

func randomProgram(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	program := make([]byte, 600)
	for i := range program {
		program[i] = byte(r.Uint32())
	}
	return program
}

// both is a Breaker and a plain gobreaker with the same settings.
type both struct {
	t        *testing.T
	settings breaker.Settings
	ours     *breaker.Breaker
	plain    *gobreaker.TwoStepCircuitBreaker[struct{}]
	opens    bool      // the outcome that plain gets opens it at once
	until    time.Time // plain is open until then
	rolls    bool      // there is a ratio
	begun    bool      // there was a failure
	failed   []int64   // the buckets of failures
	since    time.Time // the last change: buckets begin there
	row      int       // failures

	began        []*begun
	plainChanges []string
	seen         map[string]int

	mu         sync.Mutex
	ourChanges []string
}

// begun is a call that both have allowed.
type begun struct {
	pass     breaker.Pass
	done     func(error)
	trial    bool
	changes  int // how many there had been
	deadline time.Time
	ended    bool // reported to plain
}

func newBoth(t *testing.T, s breaker.Settings, seen map[string]int) *both {
	x := &both{t: t, settings: s, seen: seen, rolls: s.FailureRatio > 0}
	s.OnChange = func(_ breaker.Key, from, to breaker.State) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.ourChanges = append(x.ourChanges, fmt.Sprintf("%v to %v", from, to))
	}
	x.ours = breaker.New(key, &s)
	x.plain = x.newPlain()
	return x
}

func (x *both) newPlain() *gobreaker.TwoStepCircuitBreaker[struct{}] {
	s := x.settings
	var interval time.Duration
	if x.rolls {
		interval = s.Window
	}
	return gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests:  uint32(s.Trials),
		Timeout:      1,
		Interval:     interval,
		BucketPeriod: interval / 10,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			row := n.ConsecutiveFailures
			if x.rolls {
				row = uint32(x.row)
			}
			all := n.TotalFailures + n.TotalSuccesses
			ratio := x.rolls && all >= uint32(s.MinCalls) && float64(n.TotalFailures)/float64(all) >= s.FailureRatio
			if ratio && !x.opens && row < uint32(s.Failures) {
				x.seen["opened by ratio"]++
			}
			return x.opens || row >= uint32(s.Failures) || ratio
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			what := fmt.Sprintf("%v to %v", from, to)
			x.plainChanges = append(x.plainChanges, what)
			x.seen[what]++
			x.failed, x.row, x.since = nil, 0, time.Now()
		},
	})
}

func (x *both) plainState() gobreaker.State {
	if time.Now().Before(x.until) {
		return gobreaker.StateOpen
	}
	return x.plain.State()
}

func (x *both) allow() *begun {
	x.t.Helper()
	state := x.plainState()
	done, want := func(error) {}, gobreaker.ErrOpenState
	if state != gobreaker.StateOpen {
		done, want = x.plain.Allow()
	}
	pass, got := x.ours.Allow()
	switch {
	case want == nil && got == nil:
		x.seen["allowed: "+state.String()]++
		c := &begun{
			pass: pass, done: done,
			trial:    state == gobreaker.StateHalfOpen,
			changes:  len(x.plainChanges),
			deadline: time.Now().Add(x.settings.TrialTimeout),
		}
		x.began = append(x.began, c)
		return c
	case errors.Is(want, gobreaker.ErrOpenState) && errors.Is(got, breaker.ErrOpen),
		errors.Is(want, gobreaker.ErrTooManyRequests) && errors.Is(got, breaker.ErrTrialsTaken):
		x.seen["denied: "+state.String()]++
	default:
		x.t.Fatalf("Allow: got %v, gobreaker %v", got, want)
	}
	return nil
}

// end ends the call with err, and if err is nil, as one that the instance rejected for
// after.
func (x *both) end(c *begun, err error, after time.Duration) {
	switch {
	case c.ended:
		x.seen["trial reported again"]++
	case c.changes < len(x.plainChanges) && c.trial:
		x.seen["late: trial"]++
	case c.changes < len(x.plainChanges):
		x.seen["late: call"]++
	}
	again := c.ended
	if after != 0 {
		if after < 0 {
			err = context.Canceled
		} else {
			err = errRejected
		}
		c.pass.Reject(after)
	} else {
		c.pass.Done(err)
	}
	if !again {
		x.tellPlain(c, err)
	}
	if again || !c.trial { // reporting once more is harmless for a trial only
		x.began = slices.DeleteFunc(x.began, func(o *begun) bool { return o == c })
	}
}

var errRejected = errors.New("429 Too Many Requests")

// tellPlain ends a call for gobreaker; the Breaker has been told.
func (x *both) tellPlain(c *begun, err error) {
	c.ended = true
	late := c.changes < len(x.plainChanges)
	x.opens = breaker.Refused(err) || errors.Is(err, errRejected)
	switch {
	case x.plainState() == gobreaker.StateOpen: // asked, it would end that state
	case x.rolls && !c.trial:
		if !late && !errors.Is(err, context.Canceled) {
			x.tellRolling(err)
		}
	case late || c.trial:
		c.done(err)
	case errors.Is(err, breaker.ErrSlow):
		c.done(nil) // it counts for the ratio only
	default:
		c.done(err)
	}
	if len(x.plainChanges) > c.changes && !late && x.plain.State() == gobreaker.StateOpen {
		x.until = x.ours.Opened().Until
		if errors.Is(err, errRejected) {
			x.seen["rejected"]++
		}
	}
}

func (x *both) tellRolling(err error) {
	if err != nil && !x.begun {
		x.begun, x.plain, x.since = true, x.newPlain(), time.Now()
	}
	bucket := int64(time.Since(x.since) / (x.settings.Window / 10))
	if err == nil || errors.Is(err, breaker.ErrSlow) {
		x.row = 0
	} else {
		x.row++
	}
	if err != nil {
		x.failed = append(x.failed, bucket)
	} else if n := len(x.failed); n == 0 || bucket-x.failed[n-1] >= 10 {
		x.seen["success not counted"]++
		return
	}
	done, _ := x.plain.Allow()
	done(err)
}

func (x *both) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	x.plainState() // changes its state
	for _, c := range x.began {
		if c.trial && !c.ended && !c.deadline.After(time.Now()) {
			x.seen["trial lost"]++
			x.tellPlain(c, context.Canceled)
		}
	}
}

func (x *both) compare() {
	x.t.Helper()
	if got, want := x.ours.State().String(), x.plainState().String(); got != want {
		x.t.Fatalf("state is %v, gobreaker's %v", got, want)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Equal(x.ourChanges, x.plainChanges) {
		x.t.Fatalf("changes are %v, gobreaker's %v", x.ourChanges, x.plainChanges)
	}
}

// runOnBoth reads the settings and then the steps from program.
func runOnBoth(t *testing.T, program []byte, seen map[string]int) {
	next := func() (b int) {
		if len(program) > 0 {
			b, program = int(program[0]), program[1:]
		}
		return b
	}
	x := newBoth(t, breaker.Settings{
		Failures:     []int{1, 2, 3, 4, 100}[next()%5],
		FailureRatio: []float64{-1, -1, 0.3, 0.5, 0.9, 1}[next()%6],
		MinCalls:     1 + next()%8,
		Window:       []time.Duration{10, time.Millisecond, 10 * time.Second}[next()%3],
		Trials:       1 + next()%3,
		OpenFor:      []time.Duration{1, time.Millisecond, 5 * time.Second}[next()%3],
		TrialTimeout: []time.Duration{1, 20 * time.Microsecond, 10 * time.Second}[next()%3],
	}, seen)
	defer x.ours.Close()

	ends := []error{
		nil, nil, nil, errFailure, errFailure, errFailure, context.DeadlineExceeded,
		errRefused, context.Canceled, errCanceled, errors.Join(errCanceled, errRefused),
		breaker.ErrSlow, fmt.Errorf("3 s: %w", breaker.ErrSlow),
	}
	naps := []time.Duration{
		1, x.settings.OpenFor - 1, x.settings.OpenFor, x.settings.OpenFor + 1, x.settings.OpenFor / 2, 3 * x.settings.OpenFor,
		x.settings.TrialTimeout - 1, x.settings.TrialTimeout, x.settings.TrialTimeout + 1, x.settings.TrialTimeout / 2,
		x.settings.Window / 10, x.settings.Window/10 - 1, x.settings.Window / 2, x.settings.Window, 2 * x.settings.Window,
	}
	end := func(c *begun) {
		if how := next(); how%16 == 0 {
			x.end(c, nil, []time.Duration{-1, 1, 2, x.settings.OpenFor, time.Minute}[how/16%5])
		} else {
			x.end(c, ends[how%len(ends)], 0)
		}
	}
	for len(program) > 0 {
		switch step := next() % 16; {
		case step < 4:
			x.allow()
		case step < 9: // a whole call
			if c := x.allow(); c != nil {
				end(c)
			}
		case step < 13: // the end of a call that began a while ago
			if len(x.began) > 0 {
				end(x.began[next()%len(x.began)])
			}
		case step < 15:
			x.sleep(naps[next()%len(naps)])
		default:
			x.sleep(max(1, time.Until(x.until)))
		}
		x.compare()
	}
}
