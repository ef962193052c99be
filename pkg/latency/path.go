package latency

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/probe"
)

// Target is what a path leads to.
type Target struct {
	// Key and Incarnation name the instance to other callers. Without a
	// name its measurements are not shared.
	Key         events.Key
	Incarnation string
	// Address (host:port) is where it is probed by opening a connection.
	Address string
	// Probe measures it in another way. Without either it is never probed.
	Probe probe.Func
	// Done, unless nil, is called when the path is closed: it gives back what
	// Probe holds.
	Done func()
	// Coordinate is where the instance says it is, nil if it does not say.
	Coordinate *events.Coordinate
}

// Path is the way to one instance: the place where its distance is known. Make
// one with [Prober.Path], and keep it as long as the instance lives, for what
// was learned is in it. All methods are safe for concurrent use.
type Path struct {
	prober *Prober
	target Target
	hash   uint64 // of its name, the same for every caller

	estimate atomic.Uint64 // see packEstimate
	failures atomic.Int64  // probes failed in a row

	// What follows is guarded by prober.mu.

	samples     []sample // own, oldest first, at most Window, all fresh
	votes       []vote   // of other reporters in the zone, at most one each
	coordinate  *events.Coordinate
	notified    time.Duration // known distance, when onChange was last due
	groups      []membership
	period      time.Duration      // in which the zone measures it PerInterval times; 0: not ranked yet
	freshUntil  time.Duration      // until which what was fresh stays so; see setPeriodLocked
	circleRank  int                // of its circle, the first is 0
	rank        int                // among all of the group
	contends    bool               // it may be picked, or nearly
	next        time.Duration      // when it may be probed again
	suspect     bool               // nobody knows whether it lives, see [Member]
	urgent      bool               // next is not a slot of the zone's but must be kept
	probedAt    time.Duration      // when the last probe was, 0 for never
	cancel      context.CancelFunc // ends the probe in flight, else nil
	proven      bool               // the last probe was answered
	exchangedAt time.Duration      // when it was last told where we are; see exchange
	probe       entry              // in prober.proven or prober.unproven
	expiry      entry              // in prober.expiries while there are samples or votes
}

// sample is one measurement of our own.
type sample struct {
	rtt time.Duration
	at  time.Duration // on the prober's clock
}

// vote is what another reporter measured last.
type vote struct {
	reporter uint64 // hash
	sample
}

// membership is a path's part in one group.
type membership struct {
	group *Group
	n     int // how often the group lists the path
}

// Close gives back what the target's probe holds. The path must be in no group
// any more.
func (pa *Path) Close() {
	if pa.target.Done != nil {
		pa.target.Done()
	}
}

// SetCoordinate says where the instance says it is. Coordinates that are not valid are
// ignored. c is not to be changed any more.
func (pa *Path) SetCoordinate(c *events.Coordinate) {
	if c == nil || c.Validate() != nil {
		return
	}
	p := pa.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if pa.coordinate != nil && *pa.coordinate == *c {
		return
	}
	pa.coordinate = c
	p.position.stale = true
	pa.refreshLocked(p.now())
}

// Measured is the median of our own last samples that are fresh, false when
// the distance is not known that way. It is one atomic load.
func (pa *Path) Measured() (time.Duration, bool) {
	e, ok := unpackEstimate(pa.estimate.Load())
	return e.Distance, ok && e.Source == SourceMeasured
}

// Estimate is the distance by the best source that knows one, and assumed (see
// [Assumed]) when none does. It neither locks nor allocates.
func (pa *Path) Estimate(assumed time.Duration) Estimate {
	if e, ok := unpackEstimate(pa.estimate.Load()); ok {
		return e
	}
	return Estimate{Distance: assumed, Source: SourceAssumed}
}

// Failures is the number of probes that failed since the last that succeeded.
// One may be a lost packet; it is tried again after a second.
func (pa *Path) Failures() int { return int(pa.failures.Load()) }

// Observe adds a sample that somebody else took, for instance while opening a
// connection for a call. The clock must have started before the dial, and a
// failure is no sample. Samples <= 0 or > 10s are rejected, and so are those
// that come faster than Window in a second: a busy caller learns no more from
// them.
func (pa *Path) Observe(rtt time.Duration) {
	p := pa.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.closed || len(pa.samples) == p.o.Window && now-pa.samples[0].at < observeWindow {
		return
	}
	pa.addLocked(rtt, now)
}

func (pa *Path) probed() bool { return pa.target.Address != "" || pa.target.Probe != nil }

// addLocked adds a sample.
func (pa *Path) addLocked(rtt, now time.Duration) {
	if rtt <= 0 || rtt > probe.MaxRTT {
		return
	}
	p := pa.prober
	if len(pa.samples) == p.o.Window {
		pa.samples = slices.Delete(pa.samples, 0, 1)
	}
	pa.samples = append(pa.samples, sample{rtt, now})
	p.position.stale = true
	pa.publishSoonLocked(rtt, now)
	pa.refreshLocked(now)
}

// fresh is how long a sample of this path counts: longer when it is measured
// rarely.
func (pa *Path) fresh() time.Duration { return max(pa.prober.o.Fresh, 3*pa.period) }

// votesFresh is how long a vote counts: longer, for each reporter measures an
// instance more rarely than all of them.
func (pa *Path) votesFresh() time.Duration { return longer(pa.fresh()) }

func longer(fresh time.Duration) time.Duration { return fresh * 3 / 2 }

// freshLocked says whether what was measured then and counts for so long still
// does.
func (pa *Path) freshLocked(at, life, now time.Duration) bool {
	return now-at < life || now < pa.freshUntil
}

// setPeriodLocked sets how often the zone measures pa from now on. If that is
// more often, what was fresh stays so until that could have come true.
func (pa *Path) setPeriodLocked(period, now time.Duration) {
	before := pa.fresh()
	pa.period = period
	if after := pa.fresh(); after < before {
		pa.freshUntil = min(now+after, pa.firstExpiryLocked(before))
	}
	pa.expireLocked(now)
}

// refreshLocked drops what is not fresh any more, and publishes the estimate
// that the rest makes.
func (pa *Path) refreshLocked(now time.Duration) {
	p := pa.prober
	old := 0
	for old < len(pa.samples) && !pa.freshLocked(pa.samples[old].at, pa.fresh(), now) {
		old++
	}
	pa.samples = slices.Delete(pa.samples, 0, old)
	pa.votes = slices.DeleteFunc(pa.votes, func(v vote) bool { return !pa.freshLocked(v.at, pa.votesFresh(), now) })

	e, ok := pa.combineLocked(now)
	before := pa.estimate.Load()
	after := uint64(0)
	if ok {
		after = packEstimate(e)
	}
	if before != after {
		pa.estimate.Store(after)
		for _, m := range pa.groups {
			m.group.unranked = true
		}
		if moved(pa.notified, e.Distance) || (before^after)&sourceMask != 0 {
			pa.notified = e.Distance
			p.changedLocked(pa)
		}
	}

	pa.expireLocked(now)
}

// expireLocked puts pa where it is due when the oldest of what it knows is not
// fresh any more.
func (pa *Path) expireLocked(now time.Duration) {
	if len(pa.samples)+len(pa.votes) == 0 {
		pa.expiry.remove()
		return
	}
	// When samples come faster than they expire, the entry may stay where it
	// is, too early: it is put right when it is due.
	due := max(pa.firstExpiryLocked(pa.fresh()), pa.freshUntil)
	if pa.expiry.in == nil || pa.expiry.due <= now || due < pa.expiry.due {
		pa.prober.queueLocked(&pa.prober.expiries, &pa.expiry, due)
	}
}

// newestLocked is when the last of what is known was measured, and never if
// there is nothing.
func (pa *Path) newestLocked(never time.Duration) time.Duration {
	newest := never
	if n := len(pa.samples); n > 0 {
		newest = pa.samples[n-1].at
	}
	for _, v := range pa.votes {
		newest = max(newest, v.at)
	}
	return newest
}

// firstExpiryLocked is when the first of what is known ends, if own samples count for
// that long. Something must be known.
func (pa *Path) firstExpiryLocked(fresh time.Duration) time.Duration {
	end := time.Duration(math.MaxInt64)
	if len(pa.samples) > 0 {
		end = pa.samples[0].at + fresh
	}
	for _, v := range pa.votes {
		end = min(end, v.at+longer(fresh))
	}
	return end
}

// enoughSamples is how many samples of our own need no others beside them, if they
// are as young as those of an instance that is measured often.
const enoughSamples = 3

// combineLocked makes an estimate of all that is known.
func (pa *Path) combineLocked(now time.Duration) (Estimate, bool) {
	own := median(pa.samples)
	switch {
	case own > 0 && len(pa.votes) == 0,
		len(pa.samples) >= enoughSamples && now-pa.samples[len(pa.samples)-enoughSamples].at < pa.prober.o.Fresh:
		return Estimate{own, SourceMeasured}, true
	case len(pa.votes) > 0:
		all := make([]sample, 0, 16) // on the stack
		for _, v := range pa.votes {
			all = append(all, v.sample)
		}
		if own > 0 {
			all = append(all, sample{rtt: own})
		}
		d := median(all)
		if known, _ := unpackEstimate(pa.estimate.Load()); len(all) == 2 {
			d = betweenTwo(all[0].rtt, all[1].rtt, known)
		}
		return Estimate{d, SourceShared}, true
	case pa.coordinate != nil && pa.prober.position.knows(pa.coordinate):
		return Estimate{pa.prober.position.predict(pa.coordinate), SourcePredicted}, true
	}
	return Estimate{}, false
}

// acceptsLocked says whether a vote from that time counts. Others may measure an
// instance more rarely than we would, and what they think of as fresh is better
// than nothing.
func (pa *Path) acceptsLocked(at, now time.Duration) bool {
	switch {
	case now-at < pa.votesFresh():
		return true
	case now-pa.newestLocked(now-pa.fresh()) < pa.fresh():
		return false
	}
	pa.freshUntil = now + pa.prober.o.Fresh
	return true
}

// putVoteLocked gives a reporter its vote in place of its last, or of the oldest,
// and says whether that is new.
func (pa *Path) putVoteLocked(v vote) bool {
	i := slices.IndexFunc(pa.votes, func(other vote) bool { return other.reporter == v.reporter })
	switch {
	case i >= 0:
		if v.at <= pa.votes[i].at+10*time.Millisecond && v.rtt == pa.votes[i].rtt {
			return false
		}
	case len(pa.votes) < maxVotes:
		pa.votes = append(pa.votes, vote{})
		i = len(pa.votes) - 1
	default:
		i = 0
		for k := range pa.votes {
			if pa.votes[k].at < pa.votes[i].at {
				i = k
			}
		}
		if v.at <= pa.votes[i].at {
			return false
		}
	}
	pa.votes[i] = v
	pa.prober.position.stale = true
	return true
}

// publishSoonLocked makes the next batch due soon when a sample of ours tells others
// something new.
func (pa *Path) publishSoonLocked(rtt, now time.Duration) {
	known, _ := unpackEstimate(pa.estimate.Load())
	if known.Measured() && !moved(known.Distance, rtt) {
		return
	}
	for _, m := range pa.groups {
		g := m.group
		if g.report.Service == "" || g.listening {
			continue
		}
		wait := newsDelay/5 + rand.N(newsDelay*4/5)
		if !known.Measured() {
			wait /= 4 // others are about to ask, too
		}
		if due := now + wait; due < g.publish {
			g.publish = due
			wake(g.prober.wakeLoop)
		}
	}
}

func (pa *Path) in(g *Group) bool {
	return slices.ContainsFunc(pa.groups, func(m membership) bool { return m.group == g })
}
