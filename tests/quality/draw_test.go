package main

import (
	"math"
	"testing"
	"time"
)

func TestRoundTripsScatterAsTheFileSays(t *testing.T) {
	for _, test := range []struct {
		name string
		avg  float64
		s    spread
	}{
		{"quiet", 100, spread{99, 103, 0.6}},
		{"few far above", 10, spread{9, 60, 4}},
		{"wide", 50, spread{10, 100, 25}},
		{"a hair more than is possible", 2, spread{1, 3, 1.001}},
	} {
		t.Run(test.name, func(t *testing.T) {
			const n = 200_000
			var sum, squares float64
			for range n {
				v := test.s.draw(test.avg)
				if v < float64(test.s.min) || v > float64(test.s.max) || math.IsNaN(v) {
					t.Fatalf("%v is not between min and max of %v", v, test.s)
				}
				sum += v
				squares += (v - test.avg) * (v - test.avg)
			}
			sd := float64(test.s.mdev)
			if got := sum / n; math.Abs(got-test.avg) > 6*sd/math.Sqrt(n) {
				t.Errorf("a mean of %v, want %v", got, test.avg)
			}
			if got := math.Sqrt(squares / n); math.Abs(got-sd) > 0.03*sd {
				t.Errorf("a standard deviation of %v, want %v", got, sd)
			}
		})
	}
}

func TestWhereTheFileContradictsItselfItsMeanIsDrawn(t *testing.T) {
	nan := float32(math.NaN())
	for _, s := range []spread{{}, {3, 2, 1}, {6, 9, 1}, {1, 4, 1}, {nan, 9, 1}, {1, nan, 1}, {1, 9, nan}, {1, 9, 0}} {
		if got := s.draw(5); got != 5 {
			t.Errorf("%v: %v, want 5", s, got)
		}
	}
}

func TestJitterKeepsTheMeanOfTheFile(t *testing.T) {
	m := newMatrix(2)
	m.mean = []float64{0.3, 100, 100, 0.3}
	if d, ok := m.draw(0, 1, 0); !ok || d != 100*time.Millisecond {
		t.Errorf("%v without jitter, want 100ms", d)
	}
	const n = 200_000
	var sum, squares float64
	for range n {
		d, _ := m.draw(0, 1, 0.5)
		v := d.Seconds() * 1000
		sum += v
		squares += (v - 100) * (v - 100)
	}
	if got := sum / n; math.Abs(got-100) > 1 {
		t.Errorf("a mean of %v ms, want 100", got)
	}
	if got := math.Sqrt(squares / n); math.Abs(got-50) > 2 {
		t.Errorf("a standard deviation of %v ms, want 50", got)
	}
}

func TestZonesAreOfNodesThatAreNear(t *testing.T) {
	// Three places, far apart, with nodes 1 to 5 ms from each other.
	place := []int{0, 1, 2, 0, 1, 2, 0, 0, 1}
	m := newMatrix(len(place))
	for a := range place {
		for b := range place {
			m.mean[a*m.n+b] = float64(1 + (a+b)%5)
			if place[a] != place[b] {
				m.mean[a*m.n+b] = 80
			}
		}
	}
	m.mean[0*m.n+1], m.mean[1*m.n+0] = math.NaN(), math.NaN()
	zone := cluster(m, 3)
	for a := range place {
		for b := range place {
			if (zone[a] == zone[b]) != (place[a] == place[b]) {
				t.Fatalf("zones %v of nodes at %v", zone, place)
			}
		}
	}
	for _, k := range []int{1, len(place)} {
		seen := make(map[int]bool)
		for _, z := range cluster(m, k) {
			seen[z] = true
		}
		if len(seen) != k {
			t.Errorf("%d zones, want %d", len(seen), k)
		}
	}
}
