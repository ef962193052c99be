package latency

import (
	"cmp"
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
	// Key and Incarnation name the instance to other callers. Without a key its
	// measurements are not shared.
	Key         events.Key
	Incarnation string
	// Address (host:port) is probed by [probe.Connect], unless there is a Probe.
	// Without either the path is never probed.
	Address string
	// Probe measures the path in another way.
	Probe probe.Func
	// Rare measures it an eighth as often as others: some servers count connections that
	// send nothing, and block clients that open many.
	Rare bool
	// Done, unless nil, is called when the path is closed. It frees what Probe
	// holds.
	Done func()
	// Coordinate is the instance's own, from its record; nil if it has none.
	Coordinate *events.Coordinate
}

// Path is the way to one instance, and holds all that is known of its distance.
// Make one with [Prober.Path], and keep it as long as the instance lives. All
// methods are safe for concurrent use.
type Path struct {
	prober *Prober
	target Target
	hash   uint64 // of its name, the same in every process

	estimate atomic.Uint64 // see packEstimate
	failures atomic.Int64  // probes failed in a row

	// What follows is guarded by prober.mu.

	samples     []sample           // own, oldest first, at most Window, all fresh
	votes       []vote             // of other reporters in the zone, at most one each
	coordinate  *events.Coordinate // the instance's
	notified    time.Duration      // the distance when onChange was last due
	group       *Group             // nil: it is in none, and not probed
	listed      int                // how often the group lists it
	period      time.Duration      // in which the zone measures it PerInterval times; 0: not ranked yet
	freshUntil  time.Duration      // samples stay fresh until then; see setPeriodLocked
	circleRank  int                // 0 in the nearest circle that has members
	rank        int                // in the group
	contends    bool               // it may be picked, or nearly
	next        time.Duration      // when the next probe is due
	suspect     bool               // see [Member]
	urgent      bool               // next is not in a slot
	probedAt    time.Duration      // when the last probe began, 0 for never
	cancel      context.CancelFunc // ends the probe in flight, else nil
	proven      bool               // the last probe was answered
	exchangedAt time.Duration      // when its instance was last pinged; see exchange
	probe       entry              // in prober.proven or prober.unproven
	expiry      entry              // in prober.expiries while there are samples or votes
}

// sample is one measurement of this process.
type sample struct {
	rtt time.Duration
	at  time.Duration // on the prober's clock
}

// vote is the last measurement of another reporter.
type vote struct {
	reporter uint64 // hash of its name
	sample
}

// Close calls the target's Done. The path must have left all groups.
func (pa *Path) Close() {
	if pa.target.Done != nil {
		pa.target.Done()
	}
}

// SetCoordinate replaces the instance's coordinate. Nil and invalid coordinates
// are ignored. The caller must not change c afterwards.
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

// Measured is the median of this process' fresh samples, false when the estimate
// has another source. It is one atomic load.
func (pa *Path) Measured() (time.Duration, bool) {
	e, ok := unpackEstimate(pa.estimate.Load())
	return e.Distance, ok && e.Source == SourceMeasured
}

// Estimate is the distance from the best source that has one, else assumed, see
// [Assumed]. It neither locks nor allocates.
func (pa *Path) Estimate(assumed time.Duration) Estimate {
	if e, ok := unpackEstimate(pa.estimate.Load()); ok {
		return e
	}
	return Estimate{Distance: assumed, Source: SourceAssumed}
}

// Failures is the number of failed probes since the last successful one. One
// failure may be a lost packet; the next probe follows after a second.
func (pa *Path) Failures() int { return int(pa.failures.Load()) }

// Hasten has the next probe start at once, for a caller that is about to need the path
// after it has failed. It does nothing while a probe is in flight.
func (pa *Path) Hasten() {
	p := pa.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || pa.group == nil || pa.cancel != nil || !pa.probed() {
		return
	}
	pa.urgent, pa.next = true, p.now()
	p.queueProbeLocked(pa)
	wake(p.wakeSchedule)
}

// Observe adds a round trip that was measured elsewhere, for instance while a
// connection was opened for a call. The clock must have started before the dial,
// and a failure is no sample. Samples <= 0 or > 10s are ignored, and so are more
// than Window samples in a second.
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

// addLocked adds a sample of this process.
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

// fresh is how long a sample counts: Fresh, or longer if the path is measured
// rarely.
func (pa *Path) fresh() time.Duration { return max(pa.prober.o.Fresh, 3*pa.period) }

// votesFresh is how long a vote counts: longer than a sample, since a single
// reporter measures a path less often than all of them.
func (pa *Path) votesFresh() time.Duration { return longer(pa.fresh()) }

func longer(fresh time.Duration) time.Duration { return fresh * 3 / 2 }

// freshLocked reports whether a measurement that counts for life still does.
func (pa *Path) freshLocked(at, life, now time.Duration) bool {
	return now-at < life || now < pa.freshUntil
}

// setPeriodLocked sets how often the zone measures the path. If that is more often
// than before, fresh samples stay fresh until new ones had the time to come.
func (pa *Path) setPeriodLocked(period, now time.Duration) {
	before := pa.fresh()
	pa.period = period
	if after := pa.fresh(); after < before {
		pa.freshUntil = min(now+after, pa.firstExpiryLocked(before))
	}
	pa.expireLocked(now)
}

// refreshLocked drops expired samples and votes, and stores the estimate of the
// rest.
func (pa *Path) refreshLocked(now time.Duration) {
	p := pa.prober
	old := 0
	for old < len(pa.samples) && !pa.freshLocked(pa.samples[old].at, pa.fresh(), now) {
		old++
	}
	pa.samples = slices.Delete(pa.samples, 0, old)
	pa.votes = slices.DeleteFunc(pa.votes, func(v vote) bool { return !pa.freshLocked(v.at, pa.votesFresh(), now) })

	e := pa.combineLocked(now)
	before, after := pa.estimate.Load(), packEstimate(e)
	if before != after {
		pa.estimate.Store(after)
		if pa.group != nil {
			pa.group.unranked = true
		}
		if moved(pa.notified, e.Distance) || (before^after)&sourceMask != 0 {
			pa.notified = e.Distance
			p.dirtyLocked(pa.group)
		}
	}

	pa.expireLocked(now)
}

// expireLocked queues the expiry of the oldest sample or vote.
func (pa *Path) expireLocked(now time.Duration) {
	if len(pa.samples)+len(pa.votes) == 0 {
		pa.expiry.remove()
		return
	}
	// While samples come faster than they expire, the entry stays where it is,
	// too early. It is moved when it is due.
	due := max(pa.firstExpiryLocked(pa.fresh()), pa.freshUntil)
	if pa.expiry.in == nil || pa.expiry.due <= now || due < pa.expiry.due {
		pa.prober.queueLocked(&pa.prober.expiries, &pa.expiry, due)
	}
}

// newestLocked is when the newest sample or vote was measured, and never if there
// is none.
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

// firstExpiryLocked is when the first sample or vote expires, if samples count for
// fresh. There must be one.
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

// enoughSamples is how many own samples, younger than Fresh, need no votes beside
// them.
const enoughSamples = 3

// combineLocked is the estimate of all that is known, the zero value of nothing.
func (pa *Path) combineLocked(now time.Duration) Estimate {
	own := median(pa.samples)
	switch {
	case own > 0 && len(pa.votes) == 0,
		len(pa.samples) >= enoughSamples && now-pa.samples[len(pa.samples)-enoughSamples].at < pa.prober.o.Fresh:
		return Estimate{own, SourceMeasured}
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
		return Estimate{d, SourceShared}
	case pa.coordinate != nil && pa.prober.position.knows(pa.coordinate):
		return Estimate{pa.prober.position.predict(pa.coordinate), SourcePredicted}
	}
	return Estimate{}
}

// acceptsLocked reports whether a vote from that time counts. Other callers may
// measure an instance more rarely than this one would: an older vote counts where
// there is nothing newer.
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

// putVoteLocked replaces the reporter's last vote, or the oldest one when there are
// maxVotes. It reports whether the vote is new.
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
		i = slices.Index(pa.votes, slices.MinFunc(pa.votes, func(a, b vote) int { return cmp.Compare(a.at, b.at) }))
		if v.at <= pa.votes[i].at {
			return false
		}
	}
	pa.votes[i] = v
	pa.prober.position.stale = true
	return true
}

// publishSoonLocked makes the next batch due soon if a sample is news to the other
// callers.
func (pa *Path) publishSoonLocked(rtt, now time.Duration) {
	g := pa.group
	known, _ := unpackEstimate(pa.estimate.Load())
	if g != nil && g.pace != awake {
		g.tellLocked(now)
		return
	}
	if g == nil || g.report.Service == "" || g.listening || known.Measured() && !moved(known.Distance, rtt) {
		return
	}
	wait := newsDelay/5 + rand.N(newsDelay*4/5)
	if !known.Measured() {
		wait /= 4 // other callers are about to probe the path, too
	}
	if due := now + wait; due < g.publish {
		g.publish = due
		wake(g.prober.wakeLoop)
	}
}
