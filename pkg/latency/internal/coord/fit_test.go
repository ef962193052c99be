package coord_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/coord"
)

// at is a point in a plane, in milliseconds, and the height above it.
func at(x, y, height float64) events.Coordinate {
	c := events.Coordinate{Error: 0.2, Height: height / 1000}
	c.Vec[0], c.Vec[1] = x/1000, y/1000
	return c
}

func seconds(a, b events.Coordinate) float64 { return coord.Distance(&a, &b) }

// simulate lets points without a place fit to each other. In each round a point
// hears the coordinates of some others at last, with round trips that vary by
// noise. It returns the relative errors of all distances.
func simulate(r *rand.Rand, truth []events.Coordinate, rounds, heard int, noise float64) []float64 {
	n := len(truth)
	points := make([]events.Coordinate, n)
	for i := range points {
		points[i].Error = 1
		for k := range points[i].Vec {
			points[i].Vec[k] = r.NormFloat64() / 1000
		}
	}
	last := make([]map[int]coord.Neighbour, n)
	for i := range last {
		last[i] = make(map[int]coord.Neighbour)
	}
	for range rounds {
		for i := range points {
			for range heard {
				if k := r.IntN(n); k != i {
					last[i][k] = coord.Neighbour{At: points[k], RTT: seconds(truth[i], truth[k]) * (1 + noise*(2*r.Float64()-1))}
				}
			}
			var all []coord.Neighbour
			for k := range points {
				if nb, ok := last[i][k]; ok && len(all) < coord.MaxNeighbours {
					all = append(all, nb)
				}
			}
			coord.Fit(&points[i], all)
		}
	}
	var errs []float64
	for i := range points {
		for k := range i {
			want := seconds(truth[i], truth[k])
			errs = append(errs, math.Abs(seconds(points[i], points[k])-want)/want)
		}
	}
	slices.Sort(errs)
	return errs
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// The limits are about twice what the simulation reaches.
func TestPointsFindTheirDistances(t *testing.T) {
	line := make([]events.Coordinate, 10)
	for i := range line {
		line[i] = at(float64(10*i), 0, 0)
	}
	var sites []events.Coordinate // two, 100 ms apart, with points 2 ms apart within
	for i := range 24 {
		sites = append(sites, at(float64(i%2)*100, 0, 1))
	}
	r := rand.New(rand.NewPCG(1, 1))
	var plane []events.Coordinate
	for range 25 {
		plane = append(plane, at(100*r.Float64(), 100*r.Float64(), 1+5*r.Float64()))
	}
	for _, tt := range []struct {
		name   string
		truth  []events.Coordinate
		noise  float64
		limits [2]float64 // of the mean and the middle error
	}{
		{"line", line, 0, [2]float64{0.03, 0.03}},
		{"two sites", sites, 0, [2]float64{0.3, 0.02}},
		{"plane", plane, 0, [2]float64{0.03, 0.03}},
		{"plane, with noise of 20 %", plane, 0.2, [2]float64{0.1, 0.1}},
	} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprintf("%s/seed=%d", tt.name, seed), func(t *testing.T) {
				errs := simulate(rand.New(rand.NewPCG(seed, 2)), tt.truth, 200, 2, tt.noise)
				average, middle := mean(errs), errs[len(errs)/2]
				t.Logf("mean error %.4f, middle %.4f", average, middle)
				if average > tt.limits[0] || middle > tt.limits[1] {
					t.Errorf("mean error %.4f, middle %.4f, want at most %v", average, middle, tt.limits)
				}
			})
		}
	}
}

func TestFewExchangesAreEnough(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var plane []events.Coordinate
	for range 25 {
		plane = append(plane, at(100*r.Float64(), 100*r.Float64(), 1+5*r.Float64()))
	}
	for seed := range uint64(5) {
		errs := simulate(rand.New(rand.NewPCG(seed, 2)), plane, 12, 4, 0.1)
		t.Logf("mean error %.4f", mean(errs))
		if mean(errs) > 0.3 {
			t.Errorf("seed %d: mean error %.4f after 12 exchanges with 4 each", seed, mean(errs))
		}
	}
}

func TestOneFalseNeighbourMovesAPointLittle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	truth := at(20, -10, 1)
	var all []coord.Neighbour
	for range 10 {
		c := at(100*r.Float64(), 100*r.Float64(), 2)
		all = append(all, coord.Neighbour{At: c, RTT: seconds(c, truth)})
	}
	fitted := func(neighbours []coord.Neighbour) events.Coordinate {
		c := at(0, 0, 0)
		c.Error = 1
		for range 50 {
			coord.Fit(&c, neighbours)
		}
		return c
	}
	honest := fitted(all)
	all[0].RTT *= 10
	if c := fitted(all); coord.Displacement(&honest, &c) > 0.25*coord.MedianRTT(all) {
		t.Errorf("it moved by %.1f ms, with neighbours %.1f ms away", 1000*coord.Displacement(&honest, &c), 1000*coord.MedianRTT(all))
	}
}

func TestWithoutNeighboursAPointStays(t *testing.T) {
	c := at(1, 2, 3)
	before := c
	coord.Fit(&c, nil)
	if c != before {
		t.Errorf("%v became %v", before, c)
	}
	if got, want := coord.Predict(&c, &before, nil).Seconds(), coord.Distance(&c, &before); math.Abs(got-want) > 1e-6 {
		t.Errorf("predicts %v s, want the distance, %v s", got, want)
	}
}

// Whatever valid neighbours there are, a fitted point is valid and what it
// predicts can be.
func FuzzFit(f *testing.F) {
	f.Add(0.1, 0.2, 0.01, 0.3, 0.05, uint8(3))
	f.Add(10.0, -10.0, 10.0, 0.0, 10.0, uint8(64))
	f.Add(0.0, 0.0, 0.0, 0.0, 1e-9, uint8(1))
	f.Fuzz(func(t *testing.T, x, y, height, off, rtt float64, n uint8) {
		c := events.Coordinate{Error: off, Height: height}
		c.Vec[0], c.Vec[1] = x, y
		if c.Validate() != nil || !(rtt > 0 && rtt <= 10) {
			return
		}
		var all []coord.Neighbour
		for i := range int(n)%coord.MaxNeighbours + 1 {
			nb := c
			nb.Vec[i%8] /= float64(1 + i)
			all = append(all, coord.Neighbour{At: nb, RTT: rtt / float64(1+i%3)})
		}
		own := coord.New()
		for range 5 {
			coord.Fit(&own, all)
			if err := own.Validate(); err != nil {
				t.Fatal(err)
			}
			if d := coord.Predict(&own, &c, all); d <= 0 || d.Seconds() > 10 {
				t.Fatalf("predicts %v", d)
			}
			if r := coord.Rounded(own); r.Validate() != nil {
				t.Fatal(r.Validate())
			}
		}
	})
}

// A coordinate and 64 neighbours.
func BenchmarkFit(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	truth := at(20, -10, 1)
	var all []coord.Neighbour
	for range coord.MaxNeighbours {
		c := at(100*r.Float64(), 100*r.Float64(), 3*r.Float64())
		all = append(all, coord.Neighbour{At: c, RTT: seconds(c, truth) * (1 + 0.05*(2*r.Float64()-1))})
	}
	c := at(0, 0, 0)
	b.ReportAllocs()
	for b.Loop() {
		coord.Fit(&c, all)
	}
}
