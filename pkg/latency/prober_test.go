package latency_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

func TestProbesANewPathAtOnceAndThenPerIntervalTimesInEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(20 * time.Millisecond)
		p := start(t, n, latency.Options{})
		pa := p.Path(target(0))
		began := time.Now()
		p.group("user").Set(members(pa))
		time.Sleep(time.Hour)

		at := n.at(address(0))
		if first := at[0].Sub(began); first > 10*time.Millisecond {
			t.Errorf("first probe after %v, want at once", first)
		}
		if len(at) < 715 || len(at) > 725 { // two in 10 s
			t.Errorf("%d probes in an hour, want 720", len(at))
		}
		gaps := n.gaps(address(0))
		for _, gap := range gaps[1:] {
			if gap < 5*time.Second/4-50*time.Millisecond || gap > 5*time.Second*7/4+50*time.Millisecond {
				t.Errorf("%v between probes, want 5s ±75 %%", gap)
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

// A database that counts connections without a login hears little of three callers.
func TestARareTargetIsMeasuredAnEighthAsOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(20 * time.Millisecond)
		p := start(t, n, latency.Options{Budget: -1})
		var all []*latency.Path
		for i := range 3 {
			to := target(i)
			to.Rare = true
			all = append(all, p.Path(to))
		}
		p.group("db").Set(members(all...))
		time.Sleep(time.Minute)
		for i := range 3 {
			if probes := len(n.at(address(i))); probes < 1 || probes > 4 {
				t.Errorf("instance %d: %d connections in the first minute", i, probes)
			}
		}
		before := len(n.at(address(0)))
		time.Sleep(time.Hour)
		if probes := len(n.at(address(0))) - before; probes < 85 || probes > 95 {
			t.Errorf("%d connections in an hour, want 90", probes)
		}
		for _, pa := range all {
			if got, ok := pa.Measured(); got != 20*time.Millisecond || !ok {
				t.Errorf("Measured() = %v, %v, want 20ms, true", got, ok)
			}
		}
	})
}

func TestMeasuresAllNewPathsWithinAShortTimeTheNearestCircleFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(3 * time.Millisecond)
		p := start(t, n, latency.Options{Budget: -1})
		all := makePaths(p, 64)
		list := members(all...)
		for i := range list {
			list[i].Circle = uint8(i / 32)
		}
		slices.Reverse(list)
		began := time.Now()
		p.group("user").Set(list)
		time.Sleep(200 * time.Millisecond)

		var sum [2]time.Duration // of the first probes' times, by circle
		for i, pa := range all {
			if _, ok := pa.Measured(); !ok {
				t.Fatalf("path %d is not measured after 200ms", i)
			}
			sum[i/32] += n.at(address(i))[0].Sub(began)
		}
		if sum[0] > sum[1] {
			t.Errorf("the nearer circle was probed after %v, the other after %v", sum[0]/32, sum[1]/32)
		}
	})
}

func TestASmallBudgetIsSpentOnTheNearestCircleFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{})
		all := makePaths(p, 200)
		list := members(all...)
		for i := range list {
			list[i].Circle = uint8((200 - i) / 20) // the last 20 are the nearest
		}
		p.group("user").Set(list)
		time.Sleep(time.Second)
		for range 180 {
			known := -1 // the farthest circle of which something is measured
			for i := range all {
				if all[i].Estimate(0).Measured() {
					known = max(known, int(list[i].Circle))
				}
			}
			for i := range all {
				if int(list[i].Circle) < known && !all[i].Estimate(0).Measured() {
					t.Fatalf("path %d of circle %d is not measured, but some of circle %d are", i, list[i].Circle, known)
				}
			}
			time.Sleep(time.Second)
		}
	})
}

func TestPathsAreNotProbedInStep(t *testing.T) {
	for name, bare := range map[string]bool{"named": false, "nameless": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(100 * time.Millisecond)
				p := start(t, n, latency.Options{Budget: -1})
				all := make([]*latency.Path, 16)
				for i := range all {
					to := target(i)
					if bare {
						to.Key = events.Key{}
					}
					all[i] = p.Path(to)
				}
				p.group("user").Set(members(all...))
				time.Sleep(5 * time.Second)
				n.mu.Lock()
				n.most = 0
				n.mu.Unlock()
				time.Sleep(10 * time.Minute)
				if got := n.peak(); got > 8 {
					t.Errorf("%d of 16 probes at once", got)
				}
			})
		})
	}
}

func TestNeverDialsMoreThanConcurrencyAtOnce(t *testing.T) {
	for _, concurrency := range []int{1, 7} {
		t.Run(fmt.Sprintf("concurrency=%d", concurrency), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(time.Second)
				n.setFunc(func(string) time.Duration { // some answer, some do not
					return []time.Duration{time.Second, 300 * time.Millisecond, silent, refuses}[rand.N(4)]
				})
				p := start(t, n, latency.Options{Concurrency: concurrency, Budget: -1})
				p.group("user").Set(members(makePaths(p, 200)...))
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
		p := start(t, n, latency.Options{Concurrency: 1, Budget: -1, Interval: time.Minute})
		list := makePaths(p, 40)
		p.group("user").Set(members(list...))
		time.Sleep(40*100*time.Millisecond + 100*time.Millisecond)
		for i, pa := range list {
			if _, ok := pa.Measured(); !ok {
				t.Errorf("path %d is not measured", i)
			}
		}
	})
}

func TestProbesTheMembersThatCanBeProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{Budget: -1})
		all := makePaths(p, 10)
		bare := p.Path(latency.Target{})
		check := func(list []*latency.Path, want ...int) {
			t.Helper()
			p.group("user").Set(members(list...))
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
		check(all[:3], 0, 1, 2)
		check(append([]*latency.Path{bare, nil}, all[:3]...), 0, 1, 2)
		slices.Reverse(all)
		check(all[:3], 9, 8, 7)
		check(all[3:], 6, 5, 4, 3, 2, 1, 0)
		check(all[9:], 0)
		check(nil)
		check(all[8:], 1, 0)
		check([]*latency.Path{bare})
		check([]*latency.Path{})
	})
}

func TestAPathInNoGroupIsNotProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(silent)
		p := start(t, n, latency.Options{})
		pa := p.Path(target(0))
		time.Sleep(time.Minute)
		if got := len(n.at(address(0))); got != 0 {
			t.Fatalf("%d probes before it was in a group", got)
		}

		p.group("user").Set(members(pa))
		p.group("order").Set(members(pa)) // ignored: it is in another
		time.Sleep(500 * time.Millisecond)
		p.group("order").Set(nil)
		synctest.Wait()
		if n.open() != 1 {
			t.Fatalf("%d dials in flight, want the one for its group", n.open())
		}
		p.group("user").Set(nil)
		synctest.Wait()
		if n.open() != 0 {
			t.Errorf("%d dials in flight after it left its group", n.open())
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

func TestAPathThatIsListedTwiceIsProbedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{})
		pa := p.Path(target(0))
		p.group("user").Set(members(pa, pa))
		time.Sleep(5 * time.Minute)
		p.group("user").Set(members(pa))
		time.Sleep(5 * time.Minute)
		if got := len(n.at(address(0))); got < 95 || got > 125 { // one in 5 s, or in 6 when it counts twice
			t.Errorf("%d probes in 10 minutes, want 120", got)
		}
	})
}

func TestPathsOfAnotherProberAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p, other := start(t, n, latency.Options{}), start(t, n, latency.Options{})
		p.group("user").Set(members(other.Path(target(1)), nil, p.Path(target(0))))
		time.Sleep(time.Minute)
		p.group("user").Set(nil)
		if got := n.dialled(); len(got) != 1 || !got[address(0)] {
			t.Errorf("probed %v, want only %s", got, address(0))
		}
	})
}

func TestChurnDoesNotTurnIntoProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(100 * time.Millisecond)
		p := start(t, n, latency.Options{})
		a, b := p.Path(target(0)), p.Path(target(1))
		began := time.Now()
		for time.Since(began) < time.Minute {
			p.group("user").Set(members(a, b))
			time.Sleep(5 * time.Millisecond)
			p.group("user").Set(members(b, a))
			time.Sleep(5 * time.Millisecond)
			p.group("user").Set(members(b))
			time.Sleep(5 * time.Millisecond)
		}
		for i := range 2 {
			// At most one a second: churn cancels probes.
			if got := len(n.at(address(i))); got < 4 || got > 60*10/8 {
				t.Errorf("%d probes of path %d in a minute of churn", got, i)
			}
		}
	})
}

func TestAPathWithExpiredSamplesIsMeasuredAtOnceWhenItComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{Budget: -1})
		all := makePaths(p, 100)
		for range 3 {
			p.group("user").Set(members(all...))
			time.Sleep(time.Second)
			for i, pa := range all {
				if _, ok := pa.Measured(); !ok {
					t.Fatalf("path %d is not measured", i)
				}
			}
			p.group("user").Set(nil)
			time.Sleep(12 * time.Hour)
		}
	})
}

func TestCloseEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(silent)
		p := start(t, n, latency.Options{}).notify(func(string) {})
		all := makePaths(p, 100)
		all[99].Observe(time.Millisecond)
		p.group("user").Set(members(all...))
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
		p.group("user").Set(members(all[:1]...))
		p.group("order").Set(members(all...))
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

// Any sequence of lists must leave exactly those paths probed that are in a
// group.
func TestExactlyTheMembersAreProbedAfterAnySequenceOfLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		n := newNetwork(time.Millisecond)
		p := start(t, n, latency.Options{Budget: -1}).notify(func(string) {})
		all := makePaths(p, 12)
		index := make(map[*latency.Path]int)
		for i, pa := range all {
			index[pa] = i
		}
		groups := make(map[string][]*latency.Path)
		for range 300 {
			for range 1 + r.IntN(4) {
				k := r.IntN(3)
				name, own := string(rune('a'+k)), all[4*k:4*k+4]
				list := slices.Clone(groups[name])
				switch r.IntN(6) {
				case 0:
					list = nil
				case 1:
					list = append(list, own[r.IntN(len(own))]) // perhaps a second time
				case 2:
					list = slices.Insert(list, r.IntN(len(list)+1), own[r.IntN(len(own))])
				case 3:
					if len(list) > 0 {
						i := r.IntN(len(list))
						list = slices.Delete(list, i, i+1)
					}
				case 4:
					r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				case 5:
					list = slices.Clone(own[r.IntN(len(own)):])
				}
				list = list[:min(len(list), 16)] // as many may contend
				p.group(name).Set(members(list...))
				groups[name] = list
			}
			synctest.Wait()
			n.dialled()
			time.Sleep(20 * time.Second) // the turn of each
			want := make(map[int]bool)
			for _, list := range groups {
				for _, pa := range list {
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
