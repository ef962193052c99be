//go:build faults && unix

package faults_test

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/tests/faults"
)

func TestServersFreeze(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{})
	w.Announce(50, long)
	w.Announce(25, short)
	w.Callers(6)

	// Clients connected to the leader notice it by pings, within 6 s.
	w.Case("the leader of the stream, and goes on after another was elected", faults.Bounds{Blind: 12 * time.Second}, func() {
		leader := w.Leader()
		w.Freeze(leader)
		w.Pass(20 * time.Second)
		w.Thaw(leader)
		leader.Healthy(t)
	})

	w.Case("the server that a caller is connected to", faults.Bounds{Blind: 12 * time.Second}, func() {
		n := w.Others(w.Leader(), w.Beacon())[0]
		c := w.CallerAt(n.URL + "," + w.URLs(n))
		w.Seen()
		w.Freeze(n)
		moved := w.Until("the caller has moved", func() bool { return c.At() != nil && c.At() != n && !c.Stale() })
		w.Log("the caller was with another server after %v", moved)
		w.Thaw(n)
		n.Healthy(t)
	})

	w.Case("so many that there is no quorum, and a caller starts", faults.Bounds{Blind: 45 * time.Second}, func() {
		w.StepDown(nil) // an election that is over
		alone := w.Others(w.Leader())[0]
		c := w.CallerAt(alone.URL)
		w.Seen()
		c.Close()
		w.Freeze(w.Others(alone)...)
		w.Pass(12 * time.Second) // until the one that is left knows that it is alone
		newcomer := w.CallerAt(alone.URL)
		took := w.Until("a new caller knows all that live", newcomer.Whole)
		w.Log("a new caller knew all instances after %v, without a leader", took)
		w.Pass(3 * time.Second)
		w.Thaw(w.Others(alone)...)
		for _, n := range w.Nodes {
			n.Healthy(t)
		}
	})
}
