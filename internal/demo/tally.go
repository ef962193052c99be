package demo

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// tally counts calls and attempts. It is safe for concurrent use.
type tally struct {
	began time.Time

	mu        sync.Mutex      // guards what follows
	Result                    // so far, without percentiles
	durations []time.Duration // of successful calls
	recent    map[string]int  // answers by instance, since the last look
	window    [2]int          // calls and failures since the last look
}

// event is one step of the script, with its effect on attempts. Times are after the
// step.
type event struct {
	at          time.Duration
	what        string
	ids         []string
	tries       int // failed attempts on its instances
	lastTry     time.Duration
	firstAnswer time.Duration // of one of its instances
	lastAnswer  time.Duration
}

func newTally() *tally {
	return &tally{began: time.Now(), Result: Result{Circles: map[string]int{}}, recent: map[string]int{}}
}

func (t *tally) event(what string, ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, event{at: time.Since(t.began), what: what, ids: ids})
}

// attempt counts one attempt of a call, on one instance.
func (t *tally) attempt(id, circle string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Since(t.began)
	t.Attempts++
	if err == nil {
		t.recent[id]++
		t.Circles[circle]++
	}
	for i := len(t.events) - 1; i >= 0; i-- {
		e := &t.events[i]
		if !slices.Contains(e.ids, id) {
			continue
		}
		switch {
		case err != nil:
			e.lastTry = now - e.at
			e.tries++
		case e.firstAnswer == 0:
			e.firstAnswer = now - e.at
			fallthrough
		default:
			e.lastAnswer = now - e.at
		}
		break // only the latest event of the instance
	}
}

// call counts one call, after all its attempts.
func (t *tally) call(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Calls++
	t.window[0]++
	if err != nil {
		t.Failed++
		t.window[1]++
		t.Failure = err
		return
	}
	t.durations = append(t.durations, took)
}

// look is what was counted since the last look.
type look struct {
	calls, failed int
	recent        map[string]int
	events        []event
}

func (t *tally) look(seen int) look {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := look{t.window[0], t.window[1], t.recent, slices.Clone(t.events[min(seen, len(t.events)):])}
	t.window, t.recent = [2]int{}, map[string]int{}
	return l
}

// Result has the totals of a demo.
type Result struct {
	Calls, Attempts, Failed int
	Failure                 error // the last
	P50, P99                time.Duration
	Circles                 map[string]int // answers by circle
	events                  []event
}

func (t *tally) result() Result {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.Result
	slices.Sort(t.durations)
	if n := len(t.durations); n > 0 {
		r.P50, r.P99 = t.durations[n/2], t.durations[n*99/100]
	}
	return r
}

func (e *event) String() string { return e.what + " " + strings.Join(e.ids, ", ") }
