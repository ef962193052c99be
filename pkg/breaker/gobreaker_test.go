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
// all of them.

func TestItAgreesWithPlainGobreakerOnRandomPrograms(t *testing.T) {
	seen := make(map[string]int)
	for seed := range uint64(300) {
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
		"late: call", "late: trial", "trial lost", "trial reported again",
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
	refused  bool // of the error that plain gets

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
	x := &both{t: t, settings: s, seen: seen}
	s.OnChange = func(_ breaker.Key, from, to breaker.State) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.ourChanges = append(x.ourChanges, fmt.Sprintf("%v to %v", from, to))
	}
	x.ours = breaker.New(key, s)
	x.plain = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(s.Trials),
		Timeout:     s.OpenFor,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return x.refused || n.ConsecutiveFailures >= uint32(s.Failures)
		},
		IsExcluded: func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			what := fmt.Sprintf("%v to %v", from, to)
			x.plainChanges = append(x.plainChanges, what)
			x.seen[what]++
		},
	})
	return x
}

func (x *both) allow() *begun {
	x.t.Helper()
	state := x.plain.State()
	done, want := x.plain.Allow()
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

func (x *both) end(c *begun, err error) {
	switch {
	case c.ended:
		x.seen["trial reported again"]++
	case c.changes < len(x.plainChanges) && c.trial:
		x.seen["late: trial"]++
	case c.changes < len(x.plainChanges):
		x.seen["late: call"]++
	}
	again := c.ended
	if !again {
		x.tellPlain(c, err)
	}
	c.pass.Done(err)
	if again || !c.trial { // reporting once more is harmless for a trial only
		x.began = slices.DeleteFunc(x.began, func(o *begun) bool { return o == c })
	}
}

func (x *both) tellPlain(c *begun, err error) {
	c.ended = true
	x.refused = breaker.Refused(err)
	c.done(err)
}

func (x *both) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	x.plain.State() // changes its state
	for _, c := range x.began {
		if c.trial && !c.ended && !c.deadline.After(time.Now()) {
			x.seen["trial lost"]++
			x.tellPlain(c, context.Canceled)
		}
	}
}

func (x *both) compare() {
	x.t.Helper()
	if got, want := x.ours.State().String(), x.plain.State().String(); got != want {
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
		Failures:     1 + next()%4,
		Trials:       1 + next()%3,
		OpenFor:      []time.Duration{1, time.Millisecond, 5 * time.Second}[next()%3],
		TrialTimeout: []time.Duration{1, 20 * time.Microsecond, 10 * time.Second}[next()%3],
	}, seen)
	defer x.ours.Close()

	ends := []error{
		nil, nil, nil, errFailure, errFailure, errFailure, context.DeadlineExceeded,
		errRefused, context.Canceled, errCanceled, errors.Join(errCanceled, errRefused),
	}
	naps := []time.Duration{
		1, x.settings.OpenFor - 1, x.settings.OpenFor, x.settings.OpenFor + 1, x.settings.OpenFor / 2, 3 * x.settings.OpenFor,
		x.settings.TrialTimeout - 1, x.settings.TrialTimeout, x.settings.TrialTimeout + 1, x.settings.TrialTimeout / 2,
	}
	for len(program) > 0 {
		switch step := next() % 16; {
		case step < 4:
			x.allow()
		case step < 9: // a whole call
			if c := x.allow(); c != nil {
				x.end(c, ends[next()%len(ends)])
			}
		case step < 13: // the end of a call that began a while ago
			if len(x.began) > 0 {
				x.end(x.began[next()%len(x.began)], ends[next()%len(ends)])
			}
		default:
			x.sleep(naps[next()%len(naps)])
		}
		x.compare()
	}
}
