//go:build !race

package latency_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// These count: the race detector would find in them what it finds in smaller
// fleets, after minutes.
func TestWhatAnInstanceReceivesDoesNotGrowWithACrowdOfCallers(t *testing.T) {
	t.Parallel()
	crowds(t, crowd{100, 0, 5}, crowd{100, 3 * time.Second, 5})
}

// crowd is callers that start within a time and go on for some minutes.
type crowd struct {
	callers int
	within  time.Duration
	minutes int
}

func crowds(t *testing.T, all ...crowd) {
	for _, c := range all {
		t.Run(fmt.Sprintf("callers=%d/within=%v", c.callers, c.within), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testFlat(t, c.callers, c.within, c.minutes, 60) })
		})
	}
}
