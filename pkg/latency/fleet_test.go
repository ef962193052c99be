package latency_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
	"github.com/proxima-discovery/proxima/pkg/topology"
)

var zoneA = topology.Location{Region: "r", Zone: "a"}

// fleet is callers of one service in one zone.
type fleet struct {
	*network
	bus     *bus
	targets []latency.Target
}

// caller is one of them.
type caller struct {
	*prober
	name  string
	paths []*latency.Path
	cable *cable
	since time.Time
}

// newFleet makes a fleet without callers: instance i is delay(i) away.
func newFleet(t *testing.T, instances int, delay func(i int) time.Duration) *fleet {
	f := &fleet{newNetwork(0), newBus(t), make([]latency.Target, instances)}
	index := make(map[string]int)
	for i := range f.targets {
		f.targets[i] = target(i)
		index[address(i)] = i
	}
	f.setFunc(func(a string) time.Duration { return delay(index[a]) })
	return f
}

// join starts a caller that knows all instances. Its options may say more.
func (f *fleet) join(name string, o latency.Options, self ...latency.Caller) *caller {
	c := &caller{name: name, cable: &cable{Bus: f.bus}, since: time.Now()}
	me := append(self, latency.Caller{Location: zoneA})[0]
	me.Bus, me.Reporter = c.cable, name
	if o.Dial == nil {
		o.Dial = f.Dial
	}
	c.prober = newProber(me, o)
	_ = c.group("user").Share(context.Background()) // this bus has no errors
	for _, t := range f.targets {
		c.paths = append(c.paths, c.Path(t))
	}
	c.group("user").Set(members(c.paths...))
	return c
}

// nearest is the index of the nearest instance by what the caller knows.
func (c *caller) nearest() int {
	best := 0
	for i, pa := range c.paths {
		if pa.Estimate(time.Hour).Distance < c.paths[best].Estimate(time.Hour).Distance {
			best = i
		}
	}
	return best
}

// unknown is how many instances it knows no measured distance of.
func (c *caller) unknown() int {
	n := 0
	for _, pa := range c.paths {
		if !pa.Estimate(0).Measured() {
			n++
		}
	}
	return n
}

// drain returns how often each instance was dialled since the last call.
func (f *fleet) drain() []int {
	counts := make([]int, len(f.targets))
	for i := range counts {
		counts[i] = len(f.at(address(i)))
	}
	f.dialled()
	return counts
}

// spread is the least, the middle and the most.
func spread(counts []int) (least, middle, most int) {
	s := slices.Sorted(slices.Values(counts))
	return s[0], s[len(s)/2], s[len(s)-1]
}

// rush lets callers join within a time, and returns them.
func (f *fleet) rush(callers int, within time.Duration, o latency.Options) []*caller {
	all := make([]*caller, callers)
	done := make(chan struct{})
	for i := range all {
		go func() {
			time.Sleep(within * time.Duration(i) / time.Duration(callers))
			all[i] = f.join(fmt.Sprintf("c%d", i), o)
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
	return all
}

func closeAll(t *testing.T, callers []*caller) {
	t.Helper()
	for _, c := range callers {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// testFlat wants what an instance receives not to depend on how many callers
// there are, nor on whether they start together.
func testFlat(t *testing.T, callers int, within time.Duration, minutes, first int) {
	const instances = 6
	f := newFleet(t, instances, func(int) time.Duration { return time.Millisecond })
	all := f.rush(callers, within, latency.Options{})
	defer closeAll(t, all)
	time.Sleep(time.Until(all[0].since.Add(time.Minute)))
	least, middle, most := spread(f.drain())
	t.Logf("%d callers within %v: in the first minute %d–%d–%d probes per instance", callers, within, least, middle, most)
	if most > first {
		t.Errorf("%d probes of an instance in the first minute, want at most %d", most, first)
	}
	for minute := range minutes {
		time.Sleep(time.Minute)
		counts := f.drain()
		least, middle, most = spread(counts)
		t.Logf("minute %d: %d–%d–%d", minute+2, least, middle, most)
		// Share (2) per Interval (10s), if their budgets suffice.
		want := min(12.0, float64(callers)*30*0.75*0.9/instances)
		for i, n := range counts {
			if callers > 1 && (float64(n) < want/2 || float64(n) > want*3/2) || float64(n) > want*2.5 {
				t.Errorf("minute %d: %d probes of instance %d, want %.0f ±50 %%", minute+2, n, i, want)
			}
		}
		for _, c := range all {
			if n := c.unknown(); n > 0 {
				t.Fatalf("minute %d: %s knows nothing of %d instances", minute+2, c.name, n)
			}
		}
	}
	messages, _ := f.bus.sent()
	t.Logf("%d messages in %d minutes", messages, minutes+1)
}

// wobble makes round trips vary by a share of them.
func wobble(r *rand.Rand, d time.Duration, by float64) time.Duration {
	return time.Duration(float64(d) * (1 + by*(2*r.Float64()-1)))
}
