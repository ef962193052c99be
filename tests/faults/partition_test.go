//go:build faults && unix

package faults_test

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/tests/faults"
)

// TestTheClusterIsPartitioned cuts one server off, with a caller and an
// announcer that reach only this one; the others go on.
func TestTheClusterIsPartitioned(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{})
	w.Announce(30, long)
	w.Callers(3)

	for name, who := range map[string]func() *natstest.Process{
		"a follower is cut off": func() *natstest.Process { return w.Others(w.Leader(), w.Beacon())[0] },
		"the leader is cut off": w.Leader,
	} {
		w.Case(name, faults.Bounds{Blind: 50 * time.Second}, func() {
			s1 := who()
			c1 := w.CallerAt(s1.URL)
			w.AnnounceMortal(long, s1) // lives on the small side
			doomed := w.AnnounceMortal(short, w.Others(s1)...)
			w.Seen()
			w.Break(s1.Name+" is cut off", func() { w.Isolate(s1) })
			w.Pass(2 * time.Second)
			w.Die(doomed)
			w.Pass(28 * time.Second)
			w.Note("the caller on the small side: stale %t", c1.Stale())
			w.Mend("the cluster is whole", func() { w.Rejoin(s1) })
			for _, n := range w.Nodes {
				n.Healthy(t)
			}
			took := w.Until("the caller on the small side sees who lives", c1.Whole)
			w.Log("the caller on the small side saw who lives %v after the servers were well", took)
			c1.Close()
		})
	}
}
