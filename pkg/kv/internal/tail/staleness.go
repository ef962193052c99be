package kv

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// pulseEvery is the time between two questions for the pulse, give or take a tenth.
const pulseEvery = 5 * time.Second

// pulse is the newest lease in the bucket, as a copy of the stream tells it. A
// copy that is cut off from the leader answers as ever, and what it tells does
// not change any more. Nor do records, most of the time; but somebody renews a
// lease every few seconds. All watches of a registry share one. Only sequences
// are compared, and times of our own clock.
type pulse struct {
	mu    sync.Mutex
	asked time.Time // when it was last asked for
	seq   uint64    // 0: it is not known
	since time.Time // when seq was first told
	last  time.Time // and last
}

// due says whether to ask now; then who is told so does.
func (p *pulse) due() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.asked) < pulseEvery*9/10 {
		return false
	}
	p.asked = time.Now()
	return true
}

// told takes in the sequence of the newest lease, 0 if there is none.
func (p *pulse) told(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	if seq != p.seq || seq == 0 {
		p.seq, p.since = seq, p.last
	}
}

// still is for how long no lease was renewed, as far as is known.
func (p *pulse) still() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.Sub(p.since)
}

// feel takes in the newest lease.
func (w *watcher) feel(seq uint64) {
	w.r.pulse.told(seq)
	w.asked = 0
	w.timeout.Stop()
	w.freeze()
	w.schedule()
}

// freeze finds out whether what the registry tells is out of date: had it taken
// writes, the leases of those listed would have been renewed, or would have
// ended. What other regions list has its leases there.
func (w *watcher) freeze() {
	if w.from.Sourced() {
		return
	}
	still := w.r.pulse.still()
	frozen := still > 0 && still > w.shortestLease()
	switch {
	case frozen:
		w.frozen = true
		if w.stale {
			return
		}
		w.setStale(fmt.Errorf("%w: no lease was renewed for %v, it is cut off", ErrUnavailable, still.Round(time.Second)))
		w.since = time.Now().Add(-still)
	case w.frozen:
		w.thaw()
	}
}

// thaw notes that the registry takes writes again.
func (w *watcher) thaw() {
	w.frozen = false
	w.well()
}

// shortestLease of those in the view that should be renewing one.
func (v *view) shortestLease() time.Duration {
	least := time.Duration(math.MaxInt64)
	for _, rec := range v.records {
		if rec.instance != nil && !rec.expired && rec.suspect.IsZero() {
			least = min(least, ttl(rec.instance))
		}
	}
	return least
}
