//go:build faults && !race

package selector_test

import "testing"

// All cases, with five seeds each. They say nothing about races, and take a minute.
func TestCallsLeaveACircleOnlyWhenTheyGainWithAllSeeds(t *testing.T) {
	leaving(t, []uint64{1, 2, 3, 4, 5})
}
