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
	for _, tt := range []struct {
		callers int
		within  time.Duration
		minutes int
	}{{100, 0, 5}, {100, 3 * time.Second, 5}, {1000, 0, 1}, {1000, 3 * time.Second, 0}} {
		t.Run(fmt.Sprintf("callers=%d/within=%v", tt.callers, tt.within), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { testFlat(t, tt.callers, tt.within, tt.minutes, 60) })
		})
	}
}
