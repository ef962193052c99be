package selector_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector"
)

func TestRandomPicksAllAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.Random}, several(7)...)
		wantShares(t, w.picks(20000), equalShares(7))
	})
}

// Drawing two that have no calls decides nothing, so what remains is the draw.
func TestTwoChoicesPickAllAlikeWhenAllAreAlike(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LeastRequest} {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, several(7)...)
				wantShares(t, w.picks(20000), equalShares(7))
			})
		})
	}
}

func TestRoundRobinPicksOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.RoundRobin}, several(5)...)
		var order []string
		for range 5 {
			p := w.pick()
			order = append(order, p.ID)
			p.Done(nil)
		}
		if got := slices.Sorted(slices.Values(order)); !slices.Equal(got, slices.Sorted(maps.Keys(equalShares(5)))) {
			t.Fatalf("five picks went to %v, want each once", order)
		}
		for i := range 1000 {
			p := w.pick()
			if p.ID != order[i%5] {
				t.Fatalf("pick %d is %s, want %s as in the first round %v", i, p.ID, order[i%5], order)
			}
			p.Done(nil)
		}
	})
}

func TestCallersBeginTheirRoundsWithDifferentInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := make(map[string]int)
		for range 100 {
			w := start(t, selector.Options{Strategy: selector.RoundRobin}, several(4)...)
			p := w.pick()
			first[p.ID]++
			p.Done(nil)
		}
		for i := range 4 {
			if n := first[fmt.Sprint("i", i)]; n < 5 {
				t.Errorf("i%d was the first of %d in 100 callers, want about 25", i, n)
			}
		}
	})
}

func TestWeightedRoundRobinPicksInProportionToWeight(t *testing.T) {
	for _, weights := range [][]int{{100, 100, 100}, {5, 1, 1}, {1, 10000}, {7, 100, 33, 60}, {100}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var entries []events.Entry
				sum := 0
				for i, n := range weights {
					entries = append(entries, instance(fmt.Sprint("i", i), home, weight(n)))
					sum += n
				}
				w := start(t, selector.Options{Strategy: selector.WeightedRoundRobin}, entries...)
				const n = 100000
				counts := w.picks(n)
				for i, weight := range weights {
					want := float64(n*weight) / float64(sum)
					if got := float64(counts[fmt.Sprint("i", i)]); math.Abs(got-want) > 0.01*want+10 {
						t.Errorf("weight %d of %v was picked %v times of %d, want %.0f", weight, weights, got, n, want)
					}
				}
			})
		})
	}
}

// Smooth: the light ones are spread between the picks of the heavy one.
func TestWeightedRoundRobinIsSmooth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.WeightedRoundRobin},
			instance("heavy", home, weight(500)), instance("light", home, weight(100)))
		run, longest := 0, 0 // of picks of the heavy one
		var gaps []int
		for range 6000 {
			p := w.pick()
			p.Done(nil)
			if p.ID == "heavy" {
				run++
				longest = max(longest, run)
				continue
			}
			gaps = append(gaps, run)
			run = 0
		}
		if longest > 6 {
			t.Errorf("%d picks of the heavy one in a row, want about 5", longest)
		}
		for _, gap := range gaps[1:] {
			if gap < 4 {
				t.Fatalf("%d picks of the heavy one between two of the light one, want about 5", gap)
			}
		}
	})
}

// Nor do those of one weight all come at once.
func TestWeightedRoundRobinSpreadsTheLightOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.WeightedRoundRobin},
			instance("heavy", home, weight(400)), instance("a", home), instance("b", home), instance("c", home), instance("d", home))
		run := 0
		for range 800 {
			p := w.pick()
			p.Done(nil)
			if run++; p.ID == "heavy" {
				run = 0
			}
			if run > 2 {
				t.Fatalf("%d picks of light ones in a row, want at most 2", run)
			}
		}
	})
}

func TestNearestPicksTheNearestUntilItCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, selector.Options{Strategy: selector.Nearest})
		w.list(w.at("a", home, 700*time.Microsecond), w.at("b", home, 300*time.Microsecond), w.at("c", home, 500*time.Microsecond))
		for _, want := range []string{"b", "c", "a"} {
			if got := w.only(); !slices.Equal(got, []string{want}) {
				t.Errorf("picked %v, want %s", got, want)
			}
			w.call(want, errRefused)
		}
	})
}

func TestLeastRequestPrefersTheOneWithFewerCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, selector.Options{Strategy: selector.LeastRequest}, several(2)...)
		var held []selector.Pick
		for range 10 {
			held = append(held, w.pick())
		}
		// Of two, both are drawn every time: they never differ by more than one.
		if a, b := w.candidate("i0").InFlight, w.candidate("i1").InFlight; a != 5 || b != 5 {
			t.Errorf("ten calls are divided %d to %d, want equally", a, b)
		}
		for i := range held {
			if held[i].ID == "i0" {
				held[i].Done(nil)
			}
		}
		for range 5 {
			if p := w.pick(); p.ID != "i0" {
				t.Fatalf("picked %s, which has more calls", p.ID)
			}
		}
	})
}

func TestLeastRequestAndP2CDivideConcurrentCallsByWeight(t *testing.T) {
	for _, strategy := range []selector.Strategy{selector.P2C, selector.LeastRequest} {
		t.Run(string(strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: strategy}, instance("heavy", home, weight(300)), instance("light", home, weight(100)))
				for range 400 {
					w.pick()
				}
				if got := w.candidate("heavy").InFlight; got < 295 || got > 305 {
					t.Errorf("the one of weight 300 has %d of 400 calls, want about 300", got)
				}
			})
		})
	}
}

func TestParseStrategyKnowsAllAndNoOther(t *testing.T) {
	for _, s := range selector.Strategies() {
		if got, err := selector.ParseStrategy(string(s)); got != s || err != nil {
			t.Errorf("ParseStrategy(%q) = %q, %v", s, got, err)
		}
	}
	_, err := selector.ParseStrategy("fastest")
	want := `selector: strategy "fastest", want one of p2c, nearest, round_robin, weighted_round_robin, random, least_request, consistent_hash, load_aware`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestEveryStrategyWorksWithOneInstance(t *testing.T) {
	for _, s := range selector.Strategies() {
		t.Run(string(s), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := start(t, selector.Options{Strategy: s}, several(1)...)
				if got := w.picks(50)["i0"]; got != 50 {
					t.Errorf("%d of 50 picks, want all", got)
				}
			})
		})
	}
}
