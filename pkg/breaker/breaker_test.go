package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/proxima-discovery/proxima/pkg/breaker"
)

var (
	key        = breaker.Key{Service: "user", Instance: "user-1", Incarnation: "a"}
	errFailure = errors.New("500 Internal Server Error")
	errRefused = &url.Error{Op: "Get", URL: "http://user/", Err: &net.OpError{
		Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}}
	errCanceled = fmt.Errorf("get: %w", context.Canceled)
)

func allow(t *testing.T, b *breaker.Breaker) breaker.Pass {
	t.Helper()
	p, err := b.Allow()
	if err != nil {
		t.Fatalf("Allow: %v", err)
	}
	return p
}

func call(t *testing.T, b *breaker.Breaker, end error) {
	t.Helper()
	allow(t, b).Done(end)
}

func wantState(t *testing.T, b *breaker.Breaker, want breaker.State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("state is %v, want %v", got, want)
	}
}

func wantDenied(t *testing.T, b *breaker.Breaker, want error) {
	t.Helper()
	if _, err := b.Allow(); !errors.Is(err, want) {
		t.Fatalf("Allow: got %v, want %v", err, want)
	}
}

// pass lets d pass, and waits for what is due then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// halfOpen opens b and waits until it is half-open.
func halfOpen(t *testing.T, b *breaker.Breaker) {
	t.Helper()
	call(t, b, errRefused)
	openEnds(t, b)
}

// openEnds waits until b, which is open, is half-open.
func openEnds(t *testing.T, b *breaker.Breaker) {
	t.Helper()
	wantState(t, b, breaker.Open)
	pass(time.Until(b.Opened().Until))
	wantState(t, b, breaker.HalfOpen)
}

func TestFiveFailuresInARowOpenIt(t *testing.T) {
	b := breaker.New(key, &breaker.Settings{})
	defer b.Close()
	for range 4 {
		call(t, b, errFailure)
	}
	wantState(t, b, breaker.Closed)
	call(t, b, errFailure)
	wantState(t, b, breaker.Open)
	wantDenied(t, b, breaker.ErrOpen)
}

func TestASuccessStartsTheCountAnew(t *testing.T) {
	b := breaker.New(key, &breaker.Settings{Failures: 3, FailureRatio: -1})
	defer b.Close()
	for range 10 {
		call(t, b, errFailure)
		call(t, b, errFailure)
		call(t, b, nil)
		call(t, b, nil)
	}
	wantState(t, b, breaker.Closed)
	call(t, b, errFailure)
	call(t, b, errFailure)
	call(t, b, errFailure)
	wantState(t, b, breaker.Open)
}

func TestARefusedConnectionOpensItAtOnce(t *testing.T) {
	b := breaker.New(key, &breaker.Settings{Failures: 100})
	defer b.Close()
	call(t, b, errRefused)
	wantState(t, b, breaker.Open)
}

func TestAFailureAfterARefusalIsCountedAsUsual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{Failures: 2, OpenFor: time.Second})
		defer b.Close()
		halfOpen(t, b)
		call(t, b, nil)
		wantState(t, b, breaker.Closed)
		call(t, b, errFailure)
		wantState(t, b, breaker.Closed)
	})
}

func TestACancelledCallIsNotCounted(t *testing.T) {
	b := breaker.New(key, &breaker.Settings{Failures: 2})
	defer b.Close()
	for range 10 {
		call(t, b, errCanceled)
	}
	call(t, b, errFailure)
	call(t, b, errCanceled) // nor is it a success
	wantState(t, b, breaker.Closed)
	call(t, b, errFailure)
	wantState(t, b, breaker.Open)
}

func TestADeadlineIsAFailure(t *testing.T) {
	b := breaker.New(key, &breaker.Settings{Failures: 1})
	defer b.Close()
	call(t, b, context.DeadlineExceeded)
	wantState(t, b, breaker.Open)
}

func TestItTurnsHalfOpenByItselfWhenItSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{})
		defer b.Close()
		call(t, b, errRefused)
		pass(time.Until(b.Opened().Until) - 1)
		wantState(t, b, breaker.Open)
		wantDenied(t, b, breaker.ErrOpen)
		pass(1)
		wantState(t, b, breaker.HalfOpen)
	})
}

func TestOneTrialDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second})
		defer b.Close()
		halfOpen(t, b)

		trial := allow(t, b)
		wantDenied(t, b, breaker.ErrTrialsTaken)
		trial.Done(errFailure)
		openEnds(t, b)
		trial = allow(t, b)
		trial.Done(nil)
		wantState(t, b, breaker.Closed)
	})
}

func TestItClosesWhenAllTrialsSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, Trials: 3})
		defer b.Close()
		halfOpen(t, b)
		first, second, third := allow(t, b), allow(t, b), allow(t, b)
		wantDenied(t, b, breaker.ErrTrialsTaken)
		third.Done(nil)
		first.Done(nil)
		wantState(t, b, breaker.HalfOpen)
		second.Done(nil)
		wantState(t, b, breaker.Closed)
	})
}

func TestACancelledTrialGivesItsSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second})
		defer b.Close()
		halfOpen(t, b)
		for range 10 {
			call(t, b, errCanceled)
		}
		wantState(t, b, breaker.HalfOpen)
		call(t, b, nil)
		wantState(t, b, breaker.Closed)
	})
}

func TestALostTrialGivesItsSlotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, Trials: 2})
		defer b.Close()
		halfOpen(t, b)

		first := allow(t, b)
		pass(4 * time.Second)
		second := allow(t, b)
		pass(6*time.Second - 1)
		wantDenied(t, b, breaker.ErrTrialsTaken)
		pass(1) // the first has had its 10 s
		third := allow(t, b)
		wantDenied(t, b, breaker.ErrTrialsTaken)
		pass(4 * time.Second) // so has the second
		fourth := allow(t, b)
		wantDenied(t, b, breaker.ErrTrialsTaken)

		first.Done(errRefused) // too late to count
		second.Done(nil)
		wantState(t, b, breaker.HalfOpen)
		wantDenied(t, b, breaker.ErrTrialsTaken)

		third.Done(nil)
		fourth.Done(nil)
		wantState(t, b, breaker.Closed)
	})
}

func TestATrialReportedTwiceCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, Trials: 2})
		defer b.Close()
		halfOpen(t, b)
		trial := allow(t, b)
		trial.Done(nil)
		trial.Done(nil)
		trial.Done(errFailure)
		wantState(t, b, breaker.HalfOpen)
		call(t, b, nil)
		wantState(t, b, breaker.Closed)
		trial.Done(errRefused)
		wantState(t, b, breaker.Closed)
	})
}

func TestACallFromBeforeAChangeIsNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := breaker.New(key, &breaker.Settings{OpenFor: time.Second, Trials: 2, Failures: 1})
		defer b.Close()
		early, alsoEarly, veryLate := allow(t, b), allow(t, b), allow(t, b)
		call(t, b, errFailure)
		early.Done(nil)
		wantState(t, b, breaker.Open)

		openEnds(t, b)
		oldTrial := allow(t, b)
		alsoEarly.Done(errRefused)
		wantState(t, b, breaker.HalfOpen)
		call(t, b, errFailure)
		openEnds(t, b)
		oldTrial.Done(nil) // neither a success nor a slot
		first, second := allow(t, b), allow(t, b)
		wantDenied(t, b, breaker.ErrTrialsTaken)
		first.Done(nil)
		second.Done(nil)
		wantState(t, b, breaker.Closed)

		veryLate.Done(errRefused)
		oldTrial.Done(errRefused)
		wantState(t, b, breaker.Closed)
	})
}

func TestTheZeroPassDoesNothing(_ *testing.T) {
	var p breaker.Pass
	p.Done(nil)
	p.Done(errRefused)
	p.Reject(time.Second)
}

func TestRefusedKnowsARealRefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, refused := net.Dial("tcp", address)

	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"a dial to a closed port", refused, true},
		{"wrapped in a url.Error", errRefused, true},
		{"joined with another", errors.Join(io.EOF, syscall.ECONNREFUSED), true},
		{"Windows' number", os.NewSyscallError("connectex", syscall.Errno(10061)), true},
		{"a reset", syscall.ECONNRESET, false},
		{"a time-out", os.ErrDeadlineExceeded, false},
		{"only the same words", errors.New("connection refused"), false},
		{"no error", nil, false},
	} {
		if got := breaker.Refused(c.err); got != c.want {
			t.Errorf("%s: got %v, want %v (%v)", c.name, got, c.want, c.err)
		}
	}
}

func TestStatesHaveNames(t *testing.T) {
	for s, want := range map[breaker.State]string{
		breaker.Closed: "closed", breaker.HalfOpen: "half-open", breaker.Open: "open", 7: "unknown",
	} {
		if got := s.String(); got != want {
			t.Errorf("State(%d) is %q, want %q", s, got, want)
		}
	}
}

func TestAHealthyInstanceCostsLittle(t *testing.T) {
	if size := unsafe.Sizeof(breaker.Breaker{}); size > 80 {
		t.Errorf("a Breaker takes %d bytes, want at most 80", size)
	}
	b := breaker.New(key, &breaker.Settings{})
	wantNoAllocation := func() {
		t.Helper()
		n := testing.AllocsPerRun(100, func() {
			call(t, b, nil)
			call(t, b, context.Canceled)
		})
		if n != 0 {
			t.Errorf("Allow and Done allocate %v times, want 0", n)
		}
	}
	wantNoAllocation()
	call(t, b, errFailure)
	call(t, b, nil)
	wantNoAllocation() // though all are counted for a while
}
