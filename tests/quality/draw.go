package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// draw is one round trip from a to b, false when none is known. Where the file
// says how they scatter it follows a beta distribution between the file's min
// and max that has its mean (avg) and its standard deviation (mdev): most are
// near the min and a few far above, as on real paths. Else the value is the
// file's times a lognormal factor of mean 1 and standard deviation jitter.
func (m *matrix) draw(a, b int, jitter float64) (time.Duration, bool) {
	ms, ok := m.expected(a, b)
	if !ok {
		return 0, false
	}
	if m.spread != nil {
		ms = m.spread[a*m.n+b].draw(ms)
	} else if jitter > 0 && a != b {
		ms *= lognormal(jitter)
	}
	return max(time.Duration(ms*float64(time.Millisecond)), time.Microsecond), true
}

// draw returns mean if the rest does not make a distribution.
func (s spread) draw(mean float64) float64 {
	width := float64(s.max) - float64(s.min)
	at := (mean - float64(s.min)) / width
	deviation := float64(s.mdev) / width
	if !(width > 0 && at > 0 && at < 1 && deviation > 0) {
		return mean
	}
	// No distribution scatters by more than one of two values. The file's
	// columns are medians of their own and may say so by a hair.
	n := at*(1-at)/(deviation*deviation) - 1
	if n < 1e-3 {
		n = 1e-3
	}
	return float64(s.min) + width*beta(at*n, (1-at)*n)
}

// lognormal has mean 1 and the standard deviation sd.
func lognormal(sd float64) float64 {
	variance := math.Log(1 + sd*sd)
	return math.Exp(rand.NormFloat64()*math.Sqrt(variance) - variance/2)
}

// beta draws from the beta distribution.
func beta(a, b float64) float64 {
	x, y := logGamma(a), logGamma(b)
	return 1 / (1 + math.Exp(y-x))
}

// logGamma draws from the gamma distribution of that shape (Marsaglia and
// Tsang 2000) and returns the logarithm, which small shapes do not underflow.
func logGamma(shape float64) float64 {
	boost := 0.0
	if shape < 1 {
		boost = math.Log(1-rand.Float64()) / shape
		shape++
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rand.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-rand.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return math.Log(d*v) + boost
		}
	}
}
