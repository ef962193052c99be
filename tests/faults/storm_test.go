//go:build faults && unix

package faults_test

import (
	"slices"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/tests/faults"
)

// TestAThousandInstancesComeBackAtOnce restarts the only server of a thousand
// announcers: all must be back soon, and not all at the same moment.
//
// It is not parallel, for it measures.
func TestAThousandInstancesComeBackAtOnce(t *testing.T) {
	w := faults.Start(t, faults.Options{Cluster: natstest.ClusterOptions{Size: 1}, Memory: true})
	w.AnnounceApart(1000, long, 50)
	w.Watchers(2)

	w.Case("a thousand instances are announced again", faults.Bounds{Blind: 45 * time.Second}, func() {
		n := w.Nodes[0]
		w.NewLife()
		w.Kill(n)
		w.Pass(20 * time.Second)
		writes := w.CountWrites()
		w.Mend(n.Name+" starts", func() { n.Start(t) })
		n.Ready(t)
		w.Healed()
		back := w.Until("all are announced again", w.AllRegistered)
		per100 := writes()
		w.Log("all were back %v after the server; writes in each 100 ms: %v", back, per100)
		if back > 6*time.Second {
			t.Errorf("they were back after %v, want 2s", back)
		}
		all := 0
		for _, n := range per100 {
			all += n
		}
		if peak := slices.Max(per100); peak > all/3 {
			t.Errorf("%d of %d writes came within 100 ms", peak, all)
		}
	})
}

// TestManyCallersLoseTheirServer kills one of three servers of many callers. It
// is not parallel, for it measures.
func TestManyCallersLoseTheirServer(t *testing.T) {
	w := faults.Start(t, faults.Options{})
	w.Announce(50, long)
	w.Watchers(300)

	w.Case("a third of 300 callers reconnects", faults.Bounds{Blind: 15 * time.Second}, func() {
		n := w.Others(w.Leader(), w.Beacon())[0]
		w.Kill(n)
		took := w.Until("all callers see the living instances", w.AllSee)
		w.Log("all callers saw the living instances %v after the server was killed", took)
		if took > 9*time.Second {
			t.Errorf("it took %v, want 3s", took)
		}
		w.Restart(n)
	})
}
