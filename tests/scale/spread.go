package main

import (
	"math"
	"slices"
	"sync"
	"time"
)

// delays collects how long things took.
type delays struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *delays) add(x time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, x)
}

// spread is how delays are distributed, in milliseconds; NaN without any.
type spread struct {
	N             int
	P50, P99, Max float64
}

// take returns the spread of what was collected, and forgets it.
func (d *delays) take() spread {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := d.all
	d.all = nil
	if len(all) == 0 {
		return spread{}
	}
	slices.Sort(all)
	at := func(share float64) float64 { return ms(all[min(int(share*float64(len(all))), len(all)-1)]) }
	return spread{len(all), at(0.5), at(0.99), ms(all[len(all)-1])}
}

// orNaN is a value of a spread that must not be taken for a good one if there
// is nothing behind it.
func (s spread) orNaN(v float64) float64 {
	if s.N == 0 {
		return math.NaN()
	}
	return v
}
