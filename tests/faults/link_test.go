//go:build faults && unix

package faults_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/internal/natstest"
	"github.com/proxima-discovery/proxima/tests/faults"
)

func TestLinksBreak(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{Cluster: natstest.ClusterOptions{Size: 1}})
	w.Announce(20, long)
	w.Callers(1) // is not affected
	c, link := w.CallerBehind(w.Nodes[0])

	for _, cut := range []time.Duration{time.Second, 3 * time.Second, 8 * time.Second} {
		w.Case(fmt.Sprintf("cut for %v", cut), faults.Bounds{Blind: cut + 3*time.Second}, func() {
			read := c.Registry.Counts().Snapshots
			w.Break("cut", link.Cut)
			w.Until("the view is stale", c.Stale)
			w.Pass(cut)
			w.Mend("heal", link.Heal)
			took := w.Until("the view is well", func() bool { return !c.Stale() })
			w.Log("the view was well %v after the link", took)
			w.Pass(time.Second)
			if n := c.Registry.Counts().Snapshots - read; n != 1 {
				t.Errorf("%d snapshots were read after one reconnect, want 1", n)
			}
		})
	}

	// Nothing says that what is sent gets nowhere: pings must notice.
	for name, lost := range map[string]natstest.Direction{
		"lost in both directions": natstest.Up | natstest.Down,
		"lost on the way up":      natstest.Up,
		"lost on the way down":    natstest.Down,
	} {
		w.Case("all that is sent is "+name, faults.Bounds{Blind: 20 * time.Second}, func() {
			w.Break(name, func() { link.Lose(lost) })
			noticed := w.Until("the view is stale", c.Stale)
			w.Log("noticed after %v", noticed)
			if noticed > 12*time.Second {
				t.Errorf("it took %v to notice, want 6s", noticed)
			}
			w.Pass(2 * time.Second)
			w.Mend("heal", link.Heal)
			took := w.Until("the view is well", func() bool { return !c.Stale() })
			w.Log("the view was well %v after the link", took)
		})
	}
}

// TestASnapshotThroughASlowLink: half a megabyte at 50 kB/s takes longer than
// anybody waits for a page of it.
func TestASnapshotThroughASlowLink(t *testing.T) {
	t.Parallel()
	w := faults.Start(t, faults.Options{Cluster: natstest.ClusterOptions{Size: 1}})
	w.Announce(1000, time.Minute)
	w.Callers(1)
	link := natstest.NewProxy(t, w.Nodes[0].Address())
	link.Rate(50_000)
	w.Case("a snapshot comes through a slow link", faults.Bounds{Blind: time.Minute, Heal: time.Minute}, func() {
		c := w.WatcherAt(link.URL())
		took := w.Until("the caller knows all that live", c.Whole)
		n := c.Registry.Counts()
		w.Log("a snapshot of 1,000 instances came in %v; read %d, gaps %d", took, n.Snapshots, n.Gaps)
		if n.Snapshots > 2 {
			t.Errorf("%d snapshots were read, want 1", n.Snapshots)
		}
		link.Rate(0)
	})
}
