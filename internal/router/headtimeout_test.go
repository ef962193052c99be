package router_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/router"
)

func TestTheTimeForAnAnswerEndsWhenItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := func() (router.HeadContext, context.CancelFunc) {
			parent, cancel := context.WithCancel(t.Context())
			p := router.WithHeadTimeout(parent, time.Minute)
			t.Cleanup(func() { p.End(); cancel() })
			return p, cancel
		}
		lasts := func(p router.HeadContext, d time.Duration) bool {
			time.Sleep(d)
			synctest.Wait()
			return p.Err() == nil
		}

		p, _ := start()
		child, cancel := context.WithCancel(p)
		defer cancel()
		if !lasts(p, time.Minute-1) || lasts(p, 1) || !errors.Is(p.Err(), context.DeadlineExceeded) {
			t.Errorf("no answer: %v", p.Err())
		}
		if <-child.Done(); !errors.Is(child.Err(), context.DeadlineExceeded) {
			t.Errorf("a context below it: %v", child.Err())
		}

		p, _ = start()
		if !lasts(p, time.Minute-1) {
			t.Error("it ends early")
		}
		p.Extend()
		if !lasts(p, time.Minute-1) || lasts(p, 1) {
			t.Error("the caller still sends: the time must restart")
		}
		p.Extend()
		if !errors.Is(p.Err(), context.DeadlineExceeded) {
			t.Errorf("after its end: %v", p.Err())
		}

		p, leave := start()
		p.Begin()
		p.Extend() // the rest of an upload
		if !lasts(p, time.Hour) {
			t.Error("an answer that has begun was cut off")
		}
		leave()
		if lasts(p, 0) || !errors.Is(p.Err(), context.Canceled) {
			t.Errorf("the caller went away: %v", p.Err())
		}
		if _, ok := p.Deadline(); ok {
			t.Error("there is a deadline, which does not hold once the answer has begun")
		}
	})
}
