//go:build faults && unix

package faults_test

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/tests/faults"
)

// TestTheClusterIsPartitioned cuts one server off, with a caller that reaches
// only this one; the others go on, with all announcers. (One that reaches only
// the server that is cut off cannot renew, and expires.)
func TestTheClusterIsPartitioned(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{Announcers: 2})
	w.Announce(30, long)
	w.Callers(3)
	n1, n3 := w.Nodes[0], w.Nodes[2]

	for name, leader := range map[string]*natstest.Process{"a follower is cut off": n1, "the leader is cut off": n3} {
		w.Case(name, faults.Bounds{Blind: 75 * time.Second}, func() {
			w.StepDown(leader)
			alone := w.CallerAt(n3.URL)
			doomed := w.AnnounceMortal(short, w.Others(n3)...)
			w.Seen()
			w.Break("n3 is cut off", func() { w.Isolate(n3) })
			w.Pass(2 * time.Second)
			w.Die(doomed)
			noticed := w.Until("the caller that is cut off says that its view is stale", alone.Stale)
			w.Log("the view was called stale %v after the cut", noticed+2*time.Second)
			w.Pass(28*time.Second - noticed) // half a minute in all
			w.Mend("the cluster is whole", func() { w.Rejoin(n3) })
			for _, n := range w.Nodes {
				n.Healthy(t)
			}
			took := w.Until("the caller that was cut off sees the living instances", alone.Whole)
			w.Log("the caller that was cut off saw the living instances %v after the servers were well", took)
			alone.Close()
		})
	}
}
