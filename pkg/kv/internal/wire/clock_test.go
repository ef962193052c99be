package kv_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/pkg/kv"
)

func TestChangesTellTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kv.NewServerClock()
		server := func() time.Time { return time.Now().Add(time.Hour) } // ours is an hour behind
		want := func(what string, low, high time.Duration) {
			t.Helper()
			if got := c.Ahead() - time.Hour; got < low || got > high {
				t.Errorf("%s: it is ahead by an hour and %v", what, got)
			}
		}
		stored := server()
		time.Sleep(20 * time.Millisecond)
		c.Heard(stored)
		want("after 20 ms", -20*time.Millisecond, 0)
		c.Heard(server())
		want("at once", 0, 0)
		stored = server()
		time.Sleep(10 * time.Second) // the reader was busy
		c.Heard(stored)
		want("late", 0, 0)

		// Another server leads, whose clock is a second behind.
		for range 6 {
			time.Sleep(time.Minute)
			c.Heard(server().Add(-time.Second))
		}
		want("of another server", -time.Second, -time.Second)
	})
}

func TestTheRegistryKnowsTheTime(t *testing.T) {
	natstest.Bubble(t, func(t *testing.T) {
		f := setup(t)
		v := watch(t, f.r, "user")
		f.register(instance("a"))
		v.until("listed", time.Second, count(1))
		time.Sleep(time.Minute)
		if by := time.Until(f.r.Now()).Abs(); by > 100*time.Millisecond {
			t.Errorf("it is wrong by %v", by)
		}
	})
}
