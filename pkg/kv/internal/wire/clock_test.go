package wire

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestChangesTellTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewClock()
		heard := func(stored time.Time) { c.Hear(stored.UnixNano()) }
		server := func() time.Time { return time.Now().Add(time.Hour) } // ours is an hour behind
		want := func(what string, low, high time.Duration) {
			t.Helper()
			if got := c.ahead - time.Hour; got < low || got > high {
				t.Errorf("%s: it is ahead by an hour and %v", what, got)
			}
		}
		stored := server()
		time.Sleep(20 * time.Millisecond)
		heard(stored)
		want("after 20 ms", -20*time.Millisecond, 0)
		heard(server())
		want("at once", 0, 0)
		stored = server()
		time.Sleep(10 * time.Second) // the reader was busy
		heard(stored)
		want("late", 0, 0)

		// Another server leads, whose clock is a second behind.
		for range 6 {
			time.Sleep(time.Minute)
			heard(server().Add(-time.Second))
		}
		want("of another server", -time.Second, -time.Second)
	})
}
