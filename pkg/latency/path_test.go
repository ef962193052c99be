package latency_test

import (
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency"
)

func TestMeasuresTheMedianOfTheWindow(t *testing.T) {
	tests := []struct {
		name   string
		window int
		ms     []int
		want   int // ms, 0 for not measured
	}{
		{"nothing", 0, nil, 0},
		{"one", 0, []int{7}, 7},
		{"the lower of two", 0, []int{7, 5}, 5},
		{"the middle of three", 0, []int{7, 900, 6}, 7},
		{"the lower middle of four", 0, []int{1, 4, 2, 3}, 2},
		{"two wild ones of five", 0, []int{7, 900, 6, 800, 8}, 8},
		{"the last five", 0, []int{1, 1, 1, 1, 1, 9, 9, 9}, 9},
		{"a window of one", 1, []int{1, 2, 3}, 3},
		{"a large window", 40, slices.Repeat([]int{3, 1, 2}, 20), 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pa := start(t, nil, latency.Options{Window: tt.window, Fresh: time.Hour}).Path(latency.Target{})
				for _, ms := range tt.ms {
					pa.Observe(time.Duration(ms) * time.Millisecond)
					time.Sleep(time.Second)
				}
				got, ok := pa.Measured()
				if want := time.Duration(tt.want) * time.Millisecond; got != want || ok != (want > 0) {
					t.Errorf("Measured() = %v, %v, want %v", got, ok, want)
				}
			})
		})
	}
}

func TestAtMostAWindowOfObservedSamplesCountsInASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pa := start(t, nil, latency.Options{}).Path(latency.Target{})
		for i := range 1000 {
			rtt := time.Millisecond
			if i >= 5 {
				rtt = 9 * time.Millisecond
			}
			pa.Observe(rtt)
			time.Sleep(time.Second / 1001)
		}
		if got, _ := pa.Measured(); got != time.Millisecond {
			t.Errorf("Measured() = %v, want that of the first five, 1ms", got)
		}
		for range 3000 {
			pa.Observe(9 * time.Millisecond)
			time.Sleep(time.Second / 1001)
		}
		if got, _ := pa.Measured(); got != 9*time.Millisecond {
			t.Errorf("Measured() = %v three seconds later, want 9ms", got)
		}
	})
}

func TestSamplesOutOfBoundsAreIgnored(t *testing.T) {
	pa := start(t, nil, latency.Options{}).Path(latency.Target{})
	for _, d := range []time.Duration{0, -1, math.MinInt64, math.MaxInt64, 10*time.Second + 1} {
		pa.Observe(d)
		if got, ok := pa.Measured(); ok {
			t.Errorf("after a sample of %v: Measured() = %v", d, got)
		}
	}
	for _, d := range []time.Duration{1, 10 * time.Second} {
		pa := start(t, nil, latency.Options{}).Path(latency.Target{})
		pa.Observe(d)
		if got, ok := pa.Measured(); got != d || !ok {
			t.Errorf("after a sample of %v: Measured() = %v, %v", d, got, ok)
		}
	}
}

func TestTheEstimateIsFromTheBestSourceThatHasOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pa := start(t, nil, latency.Options{}).Path(latency.Target{})
		assumed := latency.Assumed(1, 3)
		want := latency.Estimate{Distance: assumed, Source: latency.SourceAssumed}
		if got := pa.Estimate(assumed); got != want {
			t.Errorf("before a sample: %v, want %v", got, want)
		}
		pa.Observe(3 * time.Millisecond)
		if got, want := pa.Estimate(assumed), (latency.Estimate{Distance: 3 * time.Millisecond, Source: latency.SourceMeasured}); got != want {
			t.Errorf("after a sample: %v, want %v", got, want)
		}
		time.Sleep(time.Minute)
		if got := pa.Estimate(assumed); got != want {
			t.Errorf("after a minute: %v, want %v", got, want)
		}
	})
}

func TestAssumesThatOuterCirclesAreFarther(t *testing.T) {
	for circles := 1; circles < 70; circles++ {
		for circle := 1; circle < circles; circle++ {
			near, far := latency.Assumed(circle-1, circles), latency.Assumed(circle, circles)
			if near <= 0 || near > far || (circles < 10 && near == far) {
				t.Errorf("Assumed(%d, %d) = %v, Assumed(%d, %d) = %v", circle-1, circles, near, circle, circles, far)
			}
		}
		last := latency.Assumed(circles-1, circles)
		if got := latency.Assumed(circles, circles); got != last {
			t.Errorf("Assumed(%d, %d) = %v, want that of the last circle, %v", circles, circles, got, last)
		}
		if got := latency.Assumed(-1, circles); got != latency.Assumed(0, circles) {
			t.Errorf("Assumed(-1, %d) = %v, want that of the first circle", circles, got)
		}
	}
	if got := latency.Assumed(0, 0); got != latency.Assumed(0, 1) {
		t.Errorf("Assumed(0, 0) = %v, want elsewhere", got)
	}
}

// To the nanosecond: a sample counts while it is younger than Fresh, whether
// its path is in a group or not.
func TestSamplesCountWhileTheyAreFresh(t *testing.T) {
	for _, grouped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := start(t, nil, latency.Options{Fresh: 20 * time.Second})
			pa := p.Path(latency.Target{})
			if grouped {
				p.group("user").Set(members(pa))
			}
			check := func(want time.Duration) {
				t.Helper()
				synctest.Wait()
				if got, ok := pa.Measured(); got != want || ok != (want > 0) {
					t.Errorf("in a group: %v: Measured() = %v, %v, want %v", grouped, got, ok, want)
				}
			}
			for range 3 {
				pa.Observe(9 * time.Millisecond) // at 0s
				time.Sleep(5 * time.Second)
				pa.Observe(2 * time.Millisecond) // at 5s
				pa.Observe(10 * time.Millisecond)
				time.Sleep(5 * time.Second)
				pa.Observe(11 * time.Millisecond) // at 10s
				check(9 * time.Millisecond)
				time.Sleep(10*time.Second - 1)
				check(9 * time.Millisecond)
				time.Sleep(time.Nanosecond) // without the first
				check(10 * time.Millisecond)
				time.Sleep(5 * time.Second) // without the next two
				check(11 * time.Millisecond)
				time.Sleep(5*time.Second - 1)
				check(11 * time.Millisecond)
				time.Sleep(time.Nanosecond)
				check(0)
			}
		})
	}
}

func TestPathsAreSafeForConcurrentUse(t *testing.T) {
	p := start(t, nil, latency.Options{}).notify(func(string) {})
	pa := p.Path(latency.Target{})
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for j := range 2000 {
				pa.Observe(time.Duration(1+i) * time.Millisecond)
				if d, ok := pa.Measured(); !ok || d < time.Millisecond || d > 4*time.Millisecond {
					t.Errorf("Measured() = %v, %v", d, ok)
					return
				}
				if j%100 == 0 {
					p.group("user").Set(members(pa))
					p.group("user").Set(nil)
				}
			}
		})
	}
	work.Wait()
}

// The measured distance is always one of the samples, with at least as many
// below as above it, give or take the lower of two.
func FuzzObserve(f *testing.F) {
	f.Add(uint8(5), []byte{10, 20, 30})
	f.Add(uint8(1), []byte{0, 255})
	f.Add(uint8(20), []byte("one slow packet among many that are not"))
	f.Fuzz(func(t *testing.T, window uint8, data []byte) {
		synctest.Test(t, func(t *testing.T) {
			size := max(int(window), 1)
			pa := start(t, nil, latency.Options{Window: size, Fresh: time.Hour}).Path(latency.Target{})
			var good []time.Duration
			for _, b := range data[:min(len(data), 1000)] {
				d := time.Duration(int8(b)) * 100 * time.Millisecond // -12.8s to 12.7s
				pa.Observe(d)
				time.Sleep(time.Second)
				if d > 0 && d <= 10*time.Second {
					good = append(good, d)
				}
				last := slices.Sorted(slices.Values(good[max(0, len(good)-size):]))
				got, ok := pa.Measured()
				if ok != (len(last) > 0) {
					t.Fatalf("Measured() = %v, %v after %v", got, ok, good)
				}
				if ok && got != last[(len(last)-1)/2] {
					t.Fatalf("Measured() = %v, want the middle of %v", got, last)
				}
			}
		})
	})
}
