package table

import (
	"math"
	"math/rand/v2"
	"time"
)

// Spill is how picks divide among circles when not all begin with the first one. Like
// its table it is never changed.
type Spill struct {
	to   []*Circle
	sums []uint64 // of the shares up to each, of 1<<32
}

// newSpill returns the spill for the shares of the preferred circles of a table, nil if
// all picks begin with the first one.
func newSpill(t *Table, shares []float64) *Spill {
	if len(shares) != len(t.preferred) || len(shares) < 2 || shares[0] > 1-1e-6 {
		return nil
	}
	s := &Spill{}
	sum := 0.0
	for i, share := range shares {
		if share < 1e-6 {
			continue
		}
		sum += share
		s.to = append(s.to, t.preferred[i])
		s.sums = append(s.sums, uint64(math.Round(min(1, sum)*(1<<32))))
	}
	if len(s.to) == 0 {
		return nil
	}
	s.sums[len(s.sums)-1] = 1 << 32
	return s
}

// Start is where a pick begins. There is one if First is not nil.
func (t *Table) Start() *Circle {
	if t.Spill == nil {
		return t.First
	}
	return t.Spill.start(rand.Uint32())
}

// start is where the pick with a random number begins.
func (s *Spill) start(random uint32) *Circle {
	for i, upTo := range s.sums {
		if uint64(random) < upTo {
			return s.to[i]
		}
	}
	return s.to[len(s.to)-1]
}

// Look takes in what has become of the calls since the last look, and returns the table
// with the shares of the circles that follow, which is t itself if little has changed. It
// is meant to be called five times a second while there are calls. Idle reports that there
// were none lately.
func (b *Builder) Look(t *Table, now time.Duration) (next *Table, idle bool) {
	b.looked = now
	b.collect(t)
	b.seen = b.seen[:0]
	for _, c := range t.preferred {
		s := b.counted[c.index]
		s.Circle, s.InFlight, s.Distance, s.Ramp = c.index, c.counts.inFlight(), c.best, float64(c.oldest)
		s.Spare = b.spare(c)
		s.Queued = b.Kind == KindLoadAware && c.queued(Ticks(now)) // other strategies hear no load reports
		b.seen = append(b.seen, s)
	}
	b.forgetRejecting()
	shares, changed, idle := b.rule.Look(now, b.seen)
	if !changed {
		return t, idle
	}
	b.shares = append(b.shares[:0], shares...)
	replaced := *t
	replaced.Spill = newSpill(t, shares)
	return &replaced, idle
}

// Unloaded is how long calls to a circle take without load and without the way there, if
// this caller has measured enough of them to tell others.
func (b *Builder) Unloaded(circle uint8) (time.Duration, bool) { return b.rule.Baseline(circle) }

// Base is how long calls to a circle take without load and without the way, as far as this
// caller knows; 0: it does not.
func (b *Builder) Base(circle uint8) time.Duration { return b.rule.Base(circle) }

// Hint takes in what another caller of the same place told, see [spill.Rule.Hint].
func (b *Builder) Hint(circle uint8, d, now time.Duration) { b.rule.Hint(circle, d, now) }

// rejecting is how many of the calls to a node it rejected lately.
type rejecting struct {
	ended, rejects uint64  // at the last look
	calls, refused float64 // sums that decay
	used           bool    // since the last look
}

const (
	rejectKeeps = 0.96  // of these sums with each look: they are of the last five seconds
	rejectFew   = 0.025 // a node that rejects less of its calls has room
)

// spare reports whether a circle has an instance that rejects next to none of its calls.
// That others do is no reason to leave the circle: balancing finds that one.
func (b *Builder) spare(c *Circle) (room bool) {
	for _, n := range c.near {
		_, rejects := n.Answers()
		if rejects == 0 {
			room = true
			continue
		}
		r := b.rejecting[n]
		if r == nil {
			r = &rejecting{}
			b.rejecting[n] = r
		}
		ended := n.Ended()
		r.calls = r.calls*rejectKeeps + float64(grown(ended, r.ended))
		r.refused = r.refused*rejectKeeps + float64(grown(uint64(rejects), r.rejects))
		r.ended, r.rejects, r.used = ended, uint64(rejects), true
		room = room || r.refused < rejectFew*r.calls || r.calls < 0.01
	}
	return room
}

// forgetRejecting forgets the nodes that no circle has any more.
func (b *Builder) forgetRejecting() {
	for n, r := range b.rejecting {
		if !r.used {
			delete(b.rejecting, n)
		}
		r.used = false
	}
}

// carry returns the shares of the last look for a table with the same circles.
func (b *Builder) carry(t *Table) []float64 {
	if len(b.seen) != len(t.preferred) {
		return nil
	}
	for i, c := range t.preferred {
		if b.seen[i].Circle != c.index {
			return nil
		}
	}
	return b.shares
}

// collect adds what the circles of a table have counted since they were last collected.
func (b *Builder) collect(t *Table) {
	for _, c := range t.preferred {
		before := c.counts
		c.counts = c.count()
		if !before.known {
			continue
		}
		sum := &b.counted[c.index]
		sum.Picks += grown(c.counts.picks, before.picks)
		sum.Completions += grown(c.counts.ended, before.ended)
		sum.Rejects += grown(c.counts.rejects, before.rejects)
		if n := grown(c.counts.measured, before.measured); n < 1<<measuredBits/2 {
			sum.Measured += n
			sum.Busy += time.Duration(min(grown(c.counts.busy, before.busy), math.MaxInt32*1000)) * time.Microsecond
		}
	}
}

// grown is by how much a counter has grown, 0 if it fell.
func grown(now, before uint64) uint64 { return max(now, before) - before }

// counts is what the nodes of a near set have counted, in all.
type counts struct {
	known                                 bool
	picks, ended, rejects, measured, busy uint64
}

func (c *Circle) count() counts {
	s := counts{known: true}
	for _, n := range c.near {
		calls := n.calls.Load()
		if calls == 0 {
			continue
		}
		s.picks += calls >> inFlightBits
		s.ended += calls>>inFlightBits - calls&inFlightMask
		count, sum := n.Measured()
		s.measured += count
		s.busy += sum
		_, rejects := n.Answers()
		s.rejects += uint64(rejects)
	}
	return s
}

// inFlight is the calls that had begun and not ended.
func (c *counts) inFlight() int { return int(c.picks - c.ended) }

// queued reports whether fresh beats say that calls wait in the near set.
func (c *Circle) queued(now uint32) bool {
	for _, n := range c.near {
		if n.Queued(now) {
			return true
		}
	}
	return false
}

// How the mean duration of successes follows: as the last ones that come quickly, or as
// those of about two seconds.
const (
	latelyCalls = 16
	latelyLook  = 0.1 // least weight of the mean of one look
)

// Learn updates the mean durations of successes, by what was counted until the last look.
// Of the tables of a service the one that most calls were picked from has to do it.
func (b *Builder) Learn(t *Table) {
	for _, c := range t.preferred {
		b.usual(c)
	}
}

// Measured is how many durations Learn would take in.
func (b *Builder) Measured(t *Table) (sum uint64) {
	for _, c := range t.preferred {
		sum += b.counted[c.index].Measured - b.taken[c.index].Measured
	}
	return sum
}

// Skip leaves out what Learn would take in: another table has it.
func (b *Builder) Skip() { copy(b.taken, b.counted) }

// usual updates the mean duration of the successes of a circle.
func (b *Builder) usual(c *Circle) {
	s, before := &b.counted[c.index], &b.taken[c.index]
	count, sum := s.Measured-before.Measured, s.Busy-before.Busy
	*before = *s
	of := &b.Typical[c.index]
	old := float64(of.Load())
	weight := min(1, max(float64(count)/latelyCalls, latelyLook))
	if old == 0 {
		// Those before the first look count too: there may be no more of them while
		// another instance attracts all calls.
		count, sum, weight = c.counts.measured, time.Duration(c.counts.busy)*time.Microsecond, 1
	}
	if count > 0 {
		of.Store(max(1, int64(old+weight*(float64(sum)/float64(count)-old))))
	}
}
