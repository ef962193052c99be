// Package coord fits network coordinates to measured round trips, and predicts
// round trips from them. It is pure: no connection, goroutine or lock.
package coord

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// The space of coordinates is Euclidean with a height, as Vivaldi's (Dabek, Cox,
// Kaashoek and Morris, SIGCOMM 2004): the distance of two points is that of their
// vectors plus both heights, which stand for the way to the core of the network.
// Vivaldi moves a point a little with each sample. Fit uses the last sample of each
// neighbour and searches the place that suits all of them: with few neighbours, and
// within minutes, that is far better (decision 0010).
const (
	// MaxNeighbours is how many neighbours a coordinate is fitted to, at most.
	MaxNeighbours = 64

	dimensions = len(events.Coordinate{}.Vec)
	unknowns   = dimensions + 1 // and the height
)

const (
	fitSteps = 2
	// robust is how soon a neighbour that does not fit counts less: at an error of
	// a fifth of the distance it pulls about as hard as it ever will. Detours fit
	// nowhere, and false reports should not.
	robust = 5
	// leastDistance is what errors are relative to at least, as a share of
	// the median distance: otherwise a neighbour that is very near, or claims to
	// be, would pull harder than all others together.
	leastDistance = 0.6
	// trusting is the error of the point below which a neighbour that does not fit
	// counts even less.
	trusting = 0.3
	// slack is added to distances that errors are relative to, in seconds:
	// below it they are noise.
	slack = 0.001
	// A point with a large error moves in small steps, so that all points find a
	// common order before each comes to rest. Damping is relative to the mean
	// curvature.
	damping, leastDamping = 16.0, 1.0
	// gravity keeps all points from drifting away together.
	gravity = 0.02
	// farthest is the longest round trip that is predicted, in seconds.
	farthest = 10
	// leastError bounds how much more a neighbour with a small error counts.
	leastError = 0.1
)

// Neighbour is a point of the space, and how far it was measured to be.
type Neighbour struct {
	At  events.Coordinate
	RTT float64 // seconds
	off float64 // logarithm of RTT by what was fitted, set by Fit
}

// New is a point without information: near the origin, in a random direction.
func New() events.Coordinate {
	var c events.Coordinate
	for i := range c.Vec {
		c.Vec[i] = rand.NormFloat64() / 1000
	}
	c.Error = 1
	return c
}

// Distance is the round trip that two coordinates predict, in seconds.
func Distance(a, b *events.Coordinate) float64 {
	return separation(a, b) + a.Height + b.Height
}

func separation(a, b *events.Coordinate) float64 {
	sum := 0.0
	for i := range a.Vec {
		d := a.Vec[i] - b.Vec[i]
		sum += d * d
	}
	return math.Sqrt(sum)
}

// A prediction is corrected by the residuals of the neighbours near its target:
// places near each other share most of the way, and what coordinates cannot
// express of it.
const (
	kinship = 0.030 // seconds: at that distance a neighbour counts a quarter
	caution = 0.5   // the weight of no correction
)

// Predict is the round trip to expect from c, which was fitted to the
// neighbours, to another point.
func Predict(c, to *events.Coordinate, neighbours []Neighbour) time.Duration {
	sum, weights := 0.0, caution
	for i := range neighbours {
		n := &neighbours[i]
		d := Distance(to, &n.At) / kinship
		w := 1 / (1 + d*d)
		w *= w
		sum += w * n.off
		weights += w
	}
	s := Distance(c, to) * math.Exp(sum/weights)
	return time.Duration(min(max(s, 1e-6), farthest) * float64(time.Second))
}

// Fit moves c towards the place that suits its neighbours best: it reduces the sum of
// a robust loss of their relative errors, in damped Gauss-Newton steps (Levenberg and
// Marquardt). Without neighbours, or when the arithmetic fails, c stays where it is.
func Fit(c *events.Coordinate, neighbours []Neighbour) {
	if len(neighbours) == 0 {
		return
	}
	least := leastDistance * MedianRTT(neighbours)
	for range fitSteps {
		if !fitStep(c, neighbours, least) {
			return
		}
	}
	sum := 0.0
	for i := range neighbours {
		n := &neighbours[i]
		d := Distance(c, &n.At)
		sum += min(1, math.Abs(d-n.RTT)/(n.RTT+slack))
		n.off = math.Log((n.RTT + slack) / (d + slack))
	}
	c.Error = sum / float64(len(neighbours))
	// As many neighbours as there are unknowns always fit, and prove nothing.
	if few := unknowns - len(neighbours); few >= 0 {
		c.Error = max(c.Error, float64(1+few)/float64(unknowns))
	}
}

// vector is what is to be found: the coordinates, then the height.
type vector [unknowns]float64

// fitStep is one step. Errors are relative to the distance, measured or fitted,
// but to no less than least.
func fitStep(c *events.Coordinate, neighbours []Neighbour, least float64) bool {
	var curvature [unknowns]vector // lower half
	var slope vector
	for i := range neighbours {
		n := &neighbours[i]
		apart := separation(c, &n.At)
		d := apart + c.Height + n.At.Height
		scale := 1 / (max(n.RTT, d, least) + slack)
		e := (d - n.RTT) * scale
		weight := 1 / max(n.At.Error, leastError)
		if x := robust * math.Abs(e); x > 1e-6 {
			pull := math.Tanh(x) / x
			if c.Error < trusting { // then the neighbour is wrong, not this point
				pull *= pull
			}
			weight *= pull
		}
		var direction vector
		unit := scale / max(apart, 1e-6)
		for k := range dimensions {
			direction[k] = (c.Vec[k] - n.At.Vec[k]) * unit
		}
		direction[dimensions] = scale
		for j := range unknowns {
			weighted, row := weight*direction[j], &curvature[j]
			slope[j] += weighted * e
			for k, d := range direction[:j+1] {
				row[k] += weighted * d
			}
		}
	}
	trace := 0.0
	for j := range unknowns {
		trace += curvature[j][j]
	}
	mean := trace / float64(unknowns)
	for j := range unknowns {
		curvature[j][j] += mean * max(damping*c.Error, leastDamping)
	}
	for k := range dimensions {
		curvature[k][k] += mean * gravity
		slope[k] += mean * gravity * c.Vec[k]
	}
	move, ok := solve(&curvature, &slope)
	if !ok {
		return false
	}
	next := *c
	for k := range dimensions {
		next.Vec[k] -= move[k]
	}
	next.Height = max(0, next.Height-move[dimensions])
	if next.Validate() != nil {
		return false
	}
	*c = next
	return true
}

// solve finds x with a·x = b for a symmetric, positive a of which the lower
// half is given, by Cholesky's decomposition, in place.
func solve(a *[unknowns]vector, b *vector) (x vector, ok bool) {
	for i := range unknowns {
		for j := range i + 1 {
			sum := a[i][j]
			for k := range j {
				sum -= a[i][k] * a[j][k]
			}
			if i != j {
				a[i][j] = sum / a[j][j]
				continue
			}
			if !(sum > 0) { // NaN, too
				return x, false
			}
			a[i][i] = math.Sqrt(sum)
		}
	}
	for i := range unknowns {
		sum := b[i]
		for k := range i {
			sum -= a[i][k] * x[k]
		}
		x[i] = sum / a[i][i]
	}
	for i := unknowns - 1; i >= 0; i-- {
		sum := x[i]
		for k := i + 1; k < unknowns; k++ {
			sum -= a[k][i] * x[k]
		}
		x[i] = sum / a[i][i]
	}
	return x, true
}

// MedianRTT is the median round trip, in seconds. There must be a neighbour.
func MedianRTT(neighbours []Neighbour) float64 {
	rtts := make([]float64, 0, MaxNeighbours) // on the stack
	for i := range neighbours {
		rtts = append(rtts, neighbours[i].RTT)
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2]
}

// Displacement is how much distances to others change at most when a point is
// found elsewhere, in seconds.
func Displacement(from, to *events.Coordinate) float64 {
	return separation(from, to) + math.Abs(from.Height-to.Height)
}

// Rounded is c to the microsecond, which takes less room in a record.
func Rounded(c events.Coordinate) events.Coordinate {
	round := func(v *float64) { *v = math.Round(*v*1e6) / 1e6 }
	for i := range c.Vec {
		round(&c.Vec[i])
	}
	round(&c.Height)
	round(&c.Error)
	round(&c.Adjustment)
	return c
}
