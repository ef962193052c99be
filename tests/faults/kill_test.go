//go:build faults && unix

package faults_test

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/tests/faults"
)

// Leases of 15 s are the default; of 6 s, shorter than the time without a
// leader, so that they end although all instances live.
const (
	long  = 15 * time.Second
	short = 6 * time.Second
)

func TestServersAreKilled(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{})
	w.Announce(100, long)
	w.Announce(50, short)
	w.Callers(6)

	w.Case("the leader of the stream", faults.Bounds{}, func() {
		leader := w.Leader()
		w.Kill(leader)
		w.Pass(12 * time.Second) // an election takes up to 9 s
		w.Restart(leader)
	})

	w.Case("a follower", faults.Bounds{}, func() {
		follower := w.Others(w.Leader())[0]
		w.Kill(follower)
		w.Pass(3 * time.Second)
		w.Restart(follower)
	})

	// The announcers stay where they are, so that there is something to miss.
	w.Case("the server that a caller is connected to", faults.Bounds{}, func() {
		n := w.Others(w.Leader(), w.Beacon())[0]
		for range 6 {
			w.CallerAt(n.URL + "," + w.URLs(n))
		}
		w.Seen()
		w.Kill(n)
		w.Pass(3 * time.Second)
		w.Restart(n)
	})

	w.Case("all at once, for longer than every lease", faults.Bounds{Blind: 45 * time.Second}, func() {
		doomed := w.AnnounceMortal(short)
		w.Seen()
		w.Kill(w.Nodes...)
		w.Pass(time.Second)
		w.Die(doomed)
		w.Pass(long + 2*time.Second)
		w.Restart(w.Nodes...)
	})
}

func TestMemoryIsLost(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{Memory: true})
	w.Announce(50, long)
	w.Announce(50, short)
	w.Callers(3)

	for name, down := range map[string]time.Duration{
		"all servers are killed, and start again": time.Second,
		"for longer than every lease":             long + 2*time.Second,
	} {
		w.Case(name, faults.Bounds{Blind: 45 * time.Second}, func() {
			doomed := w.AnnounceMortal(short)
			w.Seen()
			w.NewLife()
			w.Kill(w.Nodes...)
			w.Die(doomed)
			w.Pass(down)
			w.Restart(w.Nodes...)
		})
	}
}
