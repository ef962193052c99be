// Package testkit is what the tests of several packages need: a wait for a
// condition, a process with its output, captured logs, free ports. Servers of
// NATS are in package natstest.
package testkit

import (
	"context"
	"flag"
	"strconv"
	"testing"
	"time"
)

// Patience is how long a test waits for something that must happen. No test
// passes because of it: it only bounds how long a failure takes.
const Patience = time.Minute

// AtOnce lets n parallel tests of a package run at once, whatever the number of
// processors, unless -parallel says otherwise. It is for tests that mostly wait, and
// for TestMain to call.
func AtOnce(n int) {
	_ = flag.Set("test.parallel", strconv.Itoa(n)) // the command line is read later
}

// poll is the pause between two looks at a condition.
const poll = 5 * time.Millisecond

// Eventually waits until ok returns true and returns how long that took. After
// [Patience] it fails the test with what was waited for. In a bubble of
// testing/synctest it waits on fake time.
func Eventually(tb testing.TB, what string, ok func() bool) time.Duration {
	tb.Helper()
	return Within(tb, Patience, what, ok)
}

// Within is [Eventually] with a limit that is part of what is tested.
func Within(tb testing.TB, limit time.Duration, what string, ok func() bool) time.Duration {
	tb.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(poll)
	}
	return time.Since(began)
}

// attempt is how long one try of [Retry] may take.
const attempt = 2 * time.Second

// Retry is [Eventually] for calls that may fail for a while: it waits until try
// returns nil, and fails the test with the last error. The context of each try
// ends after two seconds.
func Retry(tb testing.TB, what string, try func(context.Context) error) {
	tb.Helper()
	for began := time.Now(); ; time.Sleep(4 * poll) {
		ctx, cancel := context.WithTimeout(tb.Context(), attempt)
		err := try(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Since(began) > Patience {
			tb.Fatalf("not within %v: %s: %v", Patience, what, err)
		}
	}
}
