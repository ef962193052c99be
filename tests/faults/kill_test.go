//go:build faults && unix

package faults_test

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/tests/faults"
)

func TestServersAreKilled(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{})
	w.Announce(25, 15*time.Second)
	w.Announce(25, 6*time.Second)
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
}
