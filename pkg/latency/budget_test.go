package latency_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

// all returns when anything was dialled.
func (n *network) all() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []time.Time
	for _, at := range n.dials {
		all = append(all, at...)
	}
	slices.SortFunc(all, time.Time.Compare)
	return all
}

// Whatever happens to a service, no two minutes have more than twice Budget
// probes.
func TestNoTwoMinutesHaveMoreProbesThanTheBudget(t *testing.T) {
	t.Parallel()
	sizes := []int{3, 10, 100, 1000}
	if raced {
		sizes = sizes[:3]
	}
	for _, instances := range sizes {
		for _, budget := range []float64{0, 5, 120} {
			t.Run(fmt.Sprintf("instances=%d/budget=%v", instances, budget), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					r, noise := rand.New(rand.NewPCG(7, uint64(instances))), rand.New(rand.NewPCG(8, 8))
					var mu sync.Mutex
					down := make(map[string]bool)
					n := newNetwork(0)
					n.setFunc(func(a string) time.Duration {
						mu.Lock()
						defer mu.Unlock()
						switch {
						case down[a] && noise.IntN(2) == 0:
							return silent
						case down[a]:
							return refuses
						default: // jumps that are doubted
							return time.Duration(1+noise.ExpFloat64()*20) * time.Millisecond
						}
					})
					p := start(t, n, latency.Options{Budget: budget})
					all := makePaths(p, instances)
					list := members(all...)
					for range 60 {
						i := r.IntN(instances)
						mu.Lock()
						down[address(i)] = !down[address(i)]
						mu.Unlock()
						list[r.IntN(instances)].Suspect = r.IntN(2) == 0
						list[r.IntN(instances)].Circle = uint8(r.IntN(3))
						if r.IntN(5) == 0 { // a new one
							list[i].Path = p.Path(target(i))
						}
						p.group("user").Set(list)
						time.Sleep(20 * time.Second)
					}
					limit := int(2 * budget)
					if budget == 0 {
						limit = 60 // the default
					}
					at, most := n.all(), 0
					for from, to := 0, 0; to < len(at); to++ {
						for at[to].Sub(at[from]) >= 2*time.Minute {
							from++
						}
						most = max(most, to-from+1)
					}
					t.Logf("at most %d probes in two minutes, %d in 20", most, len(at))
					if most > limit {
						t.Errorf("%d probes in two minutes, want at most %d", most, limit)
					}
					if instances > 10 && most < limit/2 {
						t.Errorf("at most %d probes in two minutes, though there is more to do", most)
					}
				})
			})
		}
	}
}

func TestASuspectIsProbedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{Interval: time.Minute})
		paths := makePaths(p, 10)
		list := members(paths...)
		p.group("user").Set(list)
		for i := range 5 {
			time.Sleep(10 * time.Minute)
			n.dialled()
			list[i].Suspect = true
			p.group("user").Set(list)
			time.Sleep(20 * time.Millisecond)
			if got := len(n.at(address(i))); got != 1 {
				t.Errorf("%d probes of the suspect", got)
			}
			list[i].Suspect = false
			p.group("user").Set(list)
		}
	})
}

// How often: the first circle Share (2) per Interval, the second a quarter of
// that, the others an eighth; an instance too far to be picked 1/(2·rank) of that.
func TestOuterCirclesAndFarInstancesAreMeasuredLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		far := func(i int) time.Duration { // ten of each circle: four near, six ever farther
			if k := i % 10; k >= 4 {
				return time.Duration(20*k) * time.Millisecond
			}
			return 10 * time.Millisecond
		}
		n := newNetwork(0)
		index := make(map[string]int)
		p := start(t, n, latency.Options{Budget: -1})
		var list []latency.Member
		for i := range 30 {
			index[address(i)] = i
			list = append(list, latency.Member{Path: p.Path(target(i)), Circle: uint8(i / 10)})
		}
		n.setFunc(func(a string) time.Duration { return far(index[a]) })
		p.group("user").Set(list)
		time.Sleep(time.Minute)
		n.dialled()
		hours := 10
		if raced {
			hours = 4
		}
		time.Sleep(time.Duration(hours) * time.Hour)
		for i := range list {
			want := float64(hours) * 3600 / 10 * 2 / []float64{1, 4, 8}[i/10]
			if k := i % 10; k >= 4 {
				want /= float64(2 * k)
			}
			if got := float64(len(n.at(address(i)))); got < want*0.85 || got > want*1.15 {
				t.Errorf("instance %d of circle %d: %.0f probes in %d hours, want %.0f", i%10, i/10, got, hours, want)
			}
		}
	})
}

// A caller alone, with some near instances and very many far ones: those are
// measured too, and do not take the budget away from what is picked.
func TestFarInstancesLeaveMostOfTheBudgetToNearOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, far, hours := 16, 1000, time.Duration(2)
		if raced {
			far, hours = 200, 1
		}
		n := newNetwork(0)
		nearby := make(map[string]bool)
		p := start(t, n, latency.Options{})
		var list []latency.Member
		for i := range near + far {
			circle := uint8(0)
			if i >= near {
				circle = 1
			}
			nearby[address(i)] = i < near
			list = append(list, latency.Member{Path: p.Path(target(i)), Circle: circle})
		}
		n.setFunc(func(a string) time.Duration {
			if nearby[a] {
				return time.Millisecond
			}
			return 50 * time.Millisecond
		})
		p.group("user").Set(list)
		time.Sleep(2 * hours * time.Hour) // the first probes of all
		n.dialled()
		time.Sleep(hours * time.Hour)
		var ofNear, ofFar int
		for i := range list {
			if i < near {
				ofNear += len(n.at(address(i)))
			} else {
				ofFar += len(n.at(address(i)))
			}
		}
		if share := float64(ofNear) / float64(ofNear+ofFar); share < 0.6 || ofFar == 0 {
			t.Errorf("%d probes of the near, %d of the far: %.0f %%, want at least 60 %%", ofNear, ofFar, 100*share)
		} else {
			t.Logf("%d probes of the near, %d of the far: %.0f %%", ofNear, ofFar, 100*share)
		}
	})
}
