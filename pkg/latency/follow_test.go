package latency_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

func TestFollowsAJumpWithinTwoIntervals(t *testing.T) {
	for _, callers := range []int{1, 10} {
		t.Run(fmt.Sprintf("callers=%d", callers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(3, 4))
				var jumped atomic.Bool
				f := newFleet(t, 3, func(i int) time.Duration {
					d := time.Duration(20+10*i) * time.Millisecond
					if i == 0 && jumped.Load() {
						d *= 3
					}
					return wobble(r, d, 0.1)
				})
				// A lone caller measures all three within its budget.
				all := f.rush(callers, 0, latency.Options{Budget: 60})
				defer closeAll(t, all)
				var worst [2]time.Duration
				for range 10 {
					for _, to := range []int{1, 0} { // away and back
						time.Sleep(3 * time.Minute)
						jumped.Store(to == 1)
						began := time.Now()
						for _, c := range all {
							for c.nearest() != to {
								time.Sleep(100 * time.Millisecond)
							}
						}
						worst[to] = max(worst[to], time.Since(began))
					}
				}
				t.Logf("all had followed after at most %v, and back after %v", worst[1], worst[0])
				if worst[1] > 25*time.Second {
					t.Errorf("the last had followed after %v, want about two Intervals, 20s", worst[1])
				}
				// Meanwhile it was measured as those are that are not picked.
				if worst[0] > time.Minute {
					t.Errorf("the last had followed back after %v, want a minute", worst[0])
				}
			})
		})
	}
}

// Distances that vary, or have a heavy tail, do not make the nearest change
// all the time.
func TestTheNearestDoesNotFlap(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	noises := map[string]func(time.Duration) time.Duration{
		"10 % up and down": func(d time.Duration) time.Duration { return wobble(r, d, 0.1) },
		"heavy tail": func(d time.Duration) time.Duration { // Pareto: one in ten over 1.8 times, one in a hundred over 3.2 times
			return time.Duration(float64(d) * math.Pow(1-r.Float64(), -0.25))
		},
	}
	for name, noise := range noises {
		for _, callers := range []int{1, 10} {
			t.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, 5, func(i int) time.Duration { return noise(time.Duration(20+8*i) * time.Millisecond) })
					all := f.rush(callers, 0, latency.Options{})
					defer closeAll(t, all)
					time.Sleep(2 * time.Minute)
					const minutes = 20
					changes, wrong := 0, 0
					last := make([]int, len(all))
					for range minutes * 60 {
						time.Sleep(time.Second)
						for i, c := range all {
							n := c.nearest()
							if n != last[i] {
								changes++
							}
							if n != 0 {
								wrong++
							}
							last[i] = n
						}
					}
					perTen := float64(changes) / float64(len(all)*minutes*6)
					share := float64(wrong) / float64(len(all)*minutes*60)
					t.Logf("%.3f changes of the nearest in 10 s, another is the nearest %.1f %% of the time", perTen, 100*share)
					if perTen > 1 || share > 0.15 {
						t.Error("want at most one change in 10 s, and the right one 85 % of the time")
					}
				})
			})
		}
	}
}
