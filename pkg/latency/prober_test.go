package latency_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

func TestProbesANewPathAtOnceAndThenEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(20 * time.Millisecond)
		p := start(t, n, latency.Options{})
		pa := p.Path(address(0))
		began := time.Now()
		p.Probe("user", []*latency.Path{pa})
		time.Sleep(time.Hour)

		at := n.at(address(0))
		if first := at[0].Sub(began); first > time.Millisecond {
			t.Errorf("first probe after %v, want at once", first)
		}
		gaps := n.gaps(address(0))
		for _, gap := range gaps {
			if !within(gap, 10*time.Second) {
				t.Errorf("%v between probes, want 10s ±20 %%", gap)
			}
		}
		if spread := slices.Max(gaps) - slices.Min(gaps); spread < 2*time.Second {
			t.Errorf("gaps vary by %v in %d probes, want jitter", spread, len(at))
		}
		if got, ok := pa.Measured(); got != 20*time.Millisecond || !ok {
			t.Errorf("Measured() = %v, %v, want 20ms, true", got, ok)
		}
	})
}

func TestMeasuresAllNewPathsWithinAShortTimeTheBestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(3 * time.Millisecond)
		p := start(t, n, latency.Options{})
		all := makePaths(p, 64)
		began := time.Now()
		p.Probe("user", all)
		time.Sleep(200 * time.Millisecond)

		var sum [2]time.Duration // of the first probes' times, better and worse half
		for i, pa := range all {
			if _, ok := pa.Measured(); !ok {
				t.Errorf("path %d is not measured after 200ms", i)
			}
			sum[i/32] += n.at(address(i))[0].Sub(began)
		}
		if sum[0] > sum[1] {
			t.Errorf("the better half was probed after %v, the worse after %v", sum[0]/32, sum[1]/32)
		}
	})
}

func TestNeverDialsMoreThanConcurrencyAtOnce(t *testing.T) {
	for _, concurrency := range []int{1, 7} {
		t.Run(fmt.Sprintf("concurrency=%d", concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(time.Second)
				n.setFunc(func(string) time.Duration { // some answer, some do not
					return []time.Duration{time.Second, 300 * time.Millisecond, silent, refuses}[rand.N(4)]
				})
				p := start(t, n, latency.Options{Concurrency: concurrency, MaxPaths: 200})
				p.Probe("user", makePaths(p, 200))
				time.Sleep(10 * time.Minute)
				if n.peak() != concurrency {
					t.Errorf("%d dials in flight at most, want %d", n.peak(), concurrency)
				}
			})
		})
	}
}

func TestAFreedSlotIsTakenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(100 * time.Millisecond)
		p := start(t, n, latency.Options{Concurrency: 1})
		list := makePaths(p, 40)
		p.Probe("user", list)
		time.Sleep(40*100*time.Millisecond + 100*time.Millisecond)
		for i, pa := range list {
			if _, ok := pa.Measured(); !ok {
				t.Errorf("path %d is not measured", i)
			}
		}
	})
}

func TestProbesOnlyTheFirstMaxPathsThatHaveAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{MaxPaths: 3})
		all := makePaths(p, 10)
		bare := p.Path("")
		check := func(list []*latency.Path, want ...int) {
			t.Helper()
			p.Probe("user", list)
			synctest.Wait()
			n.dialled() // what was in flight
			time.Sleep(time.Minute)
			got := n.dialled()
			for _, i := range want {
				if !got[address(i)] {
					t.Errorf("path %d was not probed", i)
				}
			}
			if len(got) != len(want) {
				t.Errorf("probed %v, want those of %v", got, want)
			}
		}
		check(all, 0, 1, 2)
		check(append([]*latency.Path{bare, nil}, all...), 0, 1, 2)
		slices.Reverse(all)
		check(all, 9, 8, 7)
		check(all[3:], 6, 5, 4)
		check(all[9:], 0)
		check(nil)
		check(all[8:], 1, 0)
		check([]*latency.Path{})
	})
}

func TestAPathInNoGroupIsNotProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(silent)
		p := start(t, n, latency.Options{})
		pa := p.Path(address(0))
		time.Sleep(time.Minute)
		if got := len(n.at(address(0))); got != 0 {
			t.Fatalf("%d probes before it was in a group", got)
		}

		p.Probe("user", []*latency.Path{pa})
		p.Probe("order", []*latency.Path{pa})
		time.Sleep(500 * time.Millisecond)
		p.Probe("user", nil)
		synctest.Wait()
		if n.open() != 1 {
			t.Fatalf("%d dials in flight, want the one for the other group", n.open())
		}
		p.Probe("order", nil)
		synctest.Wait()
		if n.open() != 0 {
			t.Errorf("%d dials in flight after it left its last group", n.open())
		}
		time.Sleep(time.Minute)
		if got := len(n.at(address(0))); got != 1 {
			t.Errorf("%d probes, want 1", got)
		}
		if got := pa.Failures(); got != 0 {
			t.Errorf("%d failures, but the probe was called off", got)
		}
	})
}

func TestAPathInTwoGroupsIsProbedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{})
		pa := p.Path(address(0))
		p.Probe("user", []*latency.Path{pa, pa})
		p.Probe("order", []*latency.Path{pa})
		time.Sleep(5 * time.Minute)
		p.Probe("user", []*latency.Path{pa})
		p.Probe("order", nil)
		time.Sleep(5 * time.Minute)
		for _, gap := range n.gaps(address(0)) {
			if !within(gap, 10*time.Second) {
				t.Errorf("%v between probes, want 10s ±20 %%", gap)
			}
		}
	})
}

func TestPathsOfAnotherProberAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p, other := start(t, n, latency.Options{}), start(t, n, latency.Options{})
		p.Probe("user", []*latency.Path{other.Path(address(1)), nil, p.Path(address(0))})
		time.Sleep(time.Minute)
		p.Probe("user", nil)
		if got := n.dialled(); len(got) != 1 || !got[address(0)] {
			t.Errorf("probed %v, want only %s", got, address(0))
		}
	})
}

func TestChurnDoesNotTurnIntoProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(100 * time.Millisecond)
		p := start(t, n, latency.Options{MaxPaths: 1})
		a, b := p.Path(address(0)), p.Path(address(1))
		began := time.Now()
		for time.Since(began) < time.Minute {
			p.Probe("user", []*latency.Path{a, b})
			time.Sleep(5 * time.Millisecond)
			p.Probe("user", []*latency.Path{b, a})
			time.Sleep(5 * time.Millisecond)
			p.Probe("user", []*latency.Path{b})
			time.Sleep(5 * time.Millisecond)
		}
		for i := range 2 {
			// One a second at most, for those whose probe was called off.
			if got := len(n.at(address(i))); got < 4 || got > 60*10/8 {
				t.Errorf("%d probes of path %d in a minute of churn", got, i)
			}
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(silent)
		p := start(t, n, latency.Options{OnChange: func(string) {}})
		all := makePaths(p, 100)
		all[99].Observe(time.Millisecond)
		p.Probe("user", all)
		time.Sleep(time.Second)
		if n.open() == 0 {
			t.Fatal("no dial in flight")
		}
		began := time.Now()
		for range 2 {
			if err := p.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if took := time.Since(began); took > 0 || n.open() > 0 {
			t.Errorf("Close took %v and left %d dials in flight", took, n.open())
		}
		if d, ok := all[99].Measured(); ok {
			t.Errorf("still measured after Close: %v", d)
		}
		n.dialled()
		p.Probe("user", all[:1])
		p.Probe("order", all)
		all[0].Observe(time.Millisecond)
		time.Sleep(time.Minute)
		if got := n.dialled(); len(got) > 0 {
			t.Errorf("probed %v after Close", got)
		}
		if d, ok := all[0].Measured(); ok {
			t.Errorf("measured after Close: %v", d)
		}
		if got := all[0].Failures(); got != 0 {
			t.Errorf("%d failures, but the probes were called off", got)
		}
	})
}

// Any sequence of lists must leave exactly those paths probed that are among
// the first of some group.
func TestProbesWhatTheGroupsSayAfterAnySequenceOfLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 4
		r := rand.New(rand.NewPCG(1, 2))
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{MaxPaths: most, OnChange: func(string) {}})
		all := makePaths(p, 12)
		index := make(map[*latency.Path]int)
		for i, pa := range all {
			index[pa] = i
		}
		groups := make(map[string][]*latency.Path)
		for range 300 {
			for range 1 + r.IntN(4) {
				name := string(rune('a' + r.IntN(3)))
				list := slices.Clone(groups[name])
				switch r.IntN(6) {
				case 0:
					list = nil
				case 1:
					list = append(list, all[r.IntN(len(all))]) // perhaps a second time
				case 2:
					list = slices.Insert(list, r.IntN(len(list)+1), all[r.IntN(len(all))])
				case 3:
					if len(list) > 0 {
						i := r.IntN(len(list))
						list = slices.Delete(list, i, i+1)
					}
				case 4:
					r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				case 5:
					list = slices.Clone(all[r.IntN(len(all)):])
				}
				p.Probe(name, list)
				groups[name] = list
			}
			synctest.Wait()
			n.dialled()
			time.Sleep(20 * time.Second) // everyone's turn
			want := make(map[int]bool)
			for _, list := range groups {
				for _, pa := range list[:min(len(list), most)] {
					want[index[pa]] = true
				}
			}
			got := n.dialled()
			for i := range all {
				if got[address(i)] != want[i] {
					t.Fatalf("path %d probed: %v, want %v; groups %v", i, got[address(i)], want[i], groups)
				}
			}
		}
	})
}
