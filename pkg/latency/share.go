package latency

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/proxima-discovery/proxima/pkg/latency/internal/coord"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

const (
	// maxReporters is how many of the callers of a service in one zone
	// measure and report. The others listen.
	maxReporters = 32
	// maxVotes is how many other reporters have a vote on a distance: those who
	// measured last.
	maxVotes = 5
	// maxEarly is how many instances are remembered that reporters know and
	// we do not, yet.
	maxEarly = 4096
	// joinChance is the chance in each second that one who listens becomes a
	// reporter while there are too few.
	joinChance = 1.0 / 32
)

// shared is a group's part in what the zone shares about its service.
type shared struct {
	report    wire.Report // of ours; no service: nothing is shared
	stop      func()      // ends the subscription
	caughtUp  bool        // what the zone knew before us has come in
	listening bool        // others report
	published bool        // we have published
	seq       uint64
	publish   time.Duration // when to, next

	reporters map[string]*reporter
	live      []*reporter // those that report now
	byID      map[string]*Path
	early     map[string][]earlyVote
	sweptAt   time.Duration // when those that are no longer spoken of were last thrown away
}

// reporter is another caller in the zone.
type reporter struct {
	hash uint64
	seq  uint64
	at   time.Duration // when it was last heard of
}

// earlyVote is a vote on an instance that we do not know yet.
type earlyVote struct {
	incarnation string
	vote
	receivedAt time.Duration
}

// Share joins the group to what the callers of its service in the same zone
// tell each other. It returns when what they knew before has come in, or when
// ctx ends. Without a Bus or a zone it does nothing.
func (g *Group) Share(ctx context.Context) error {
	p := g.prober
	if !p.shares() {
		return nil
	}
	r := wire.Report{Region: p.c.Location.Region, Zone: p.c.Location.Zone, Service: g.service, Reporter: p.c.Reporter}
	p.mu.Lock()
	if !p.groups[g] || g.report.Service != "" {
		p.mu.Unlock()
		return nil
	}
	g.report = r
	g.reporters, g.byID, g.early = map[string]*reporter{}, map[string]*Path{}, map[string][]earlyVote{}
	g.publish = p.now() + jitter(batchInterval)
	p.sharing[g.service] = g
	for _, m := range g.members {
		if p.owns(m.Path) && m.target.Key.ID != "" {
			g.indexLocked(m.Path)
		}
	}
	p.mu.Unlock()

	pattern := r
	pattern.Reporter = "*"
	stop, err := p.c.Bus.Subscribe(ctx, pattern.Subject(), g.hear)
	p.mu.Lock()
	if err != nil {
		g.report.Service = ""
	}
	g.caughtUp = true
	g.listening = len(g.live) >= maxReporters && g.outrankedLocked() >= maxReporters
	for _, pa := range g.ranked { // now that we know who else is there
		if pa.cancel == nil && len(pa.samples) == 0 {
			g.firstLocked(pa, p.now())
		}
	}
	ended := p.closed || !p.groups[g]
	if !ended {
		g.stop = stop
	}
	p.mu.Unlock()
	if ended && stop != nil {
		stop()
	}
	return err
}

// hear takes in a batch of a reporter.
func (g *Group) hear(subject string, data []byte, age time.Duration) {
	p := g.prober
	r, err := wire.ParseReport(subject)
	if err != nil || r.Region != g.report.Region || r.Zone != g.report.Zone || r.Service != g.report.Service {
		p.rejected.Add(1)
		return
	}
	if r.Reporter == p.c.Reporter {
		return
	}
	b, rejected, err := wire.DecodeBatch(data)
	if err != nil {
		p.rejected.Add(1)
		return
	}
	p.rejected.Add(uint64(rejected))

	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	now := p.now()
	rep := g.reporters[r.Reporter]
	known := rep != nil && now-rep.at <= reporterTimeout
	switch {
	case rep == nil && b.Leaving:
		return
	case rep == nil:
		rep = &reporter{hash: xxhash.Sum64String(r.Reporter)}
		if len(g.reporters) >= 16*maxReporters {
			p.rejected.Add(1) // more than there should be: they are made up, or will fall silent
			return
		}
		g.reporters[r.Reporter] = rep
	case b.Sequence <= rep.seq:
		p.rejected.Add(1) // it was sent again
		return
	}
	rep.seq, rep.at = b.Sequence, now-age
	if b.Leaving {
		delete(g.reporters, r.Reporter)
	}
	if !known || b.Leaving {
		g.countLocked(now) // else it is the same as before, or [Group.chooseRoleLocked] will see
	}
	for i := range b.Samples {
		g.voteLocked(rep, &b.Samples[i], now, age)
	}
	p.position.adoptLocked(b.Coordinate)
}

// voteLocked takes in one sample of a reporter.
func (g *Group) voteLocked(rep *reporter, s *wire.Sample, now, age time.Duration) {
	v := vote{rep.hash, sample{s.RTT, now - age - s.Age}}
	pa := g.byID[s.ID]
	if pa == nil {
		g.keepEarlyLocked(s.ID, earlyVote{s.Incarnation, v, now})
		return
	}
	if pa.target.Incarnation != s.Incarnation || !pa.acceptsLocked(v.at, now) {
		return
	}
	known, _ := unpackEstimate(pa.estimate.Load())
	i := slices.IndexFunc(pa.votes, func(other vote) bool { return other.reporter == v.reporter })
	repeats := i >= 0 && !doubtful(v.rtt, pa.votes[i].rtt)
	if !pa.putVoteLocked(v) {
		return
	}
	pa.refreshLocked(now)
	switch {
	case pa.failures.Load() > 0 && !pa.urgent && pa.cancel == nil && v.at > pa.probedAt && pa.probed():
		// It answers others again. They hear of it all at once.
		pa.urgent, pa.next = true, now+rand.N(g.prober.o.Interval)
		g.prober.queueProbeLocked(pa)
	case pa.urgent && !known.Measured() && pa.failures.Load() == 0:
		g.planLocked(pa, now) // somebody has done it for us
	case (pa.contends || v.rtt < known.Distance) && known.Measured() && doubtful(v.rtt, known.Distance) &&
		!repeats && (pa.probedAt == 0 || now-pa.probedAt > g.prober.o.Interval/2):
		// It may have moved, or the reporter is wrong: two others look, unless
		// they just have.
		if g.aheadLocked(mix(pa.hash, rep.seq), rep.hash, 2) < 2 {
			g.probeSoonLocked(pa, now)
		}
	}
}

// keepEarlyLocked keeps a vote on an instance that we may come to know.
func (g *Group) keepEarlyLocked(id string, f earlyVote) {
	list, known := g.early[id]
	if !known && len(g.early) >= maxEarly {
		if f.receivedAt-g.sweptAt < time.Second {
			return // whoever makes up names shall not keep us busy
		}
		g.sweptAt = f.receivedAt
		maps.DeleteFunc(g.early, func(_ string, list []earlyVote) bool { return f.receivedAt-list[0].receivedAt > reporterTimeout })
		if len(g.early) >= maxEarly {
			return
		}
	}
	list = slices.DeleteFunc(list, func(other earlyVote) bool { return other.reporter == f.reporter })
	if len(list) == maxVotes {
		list = slices.Delete(list, maxVotes-1, maxVotes)
	}
	g.early[id] = slices.Insert(list, 0, f) // the last that was heard is the first
}

// indexLocked gives a path that has just become known the votes that came
// before it, so that its first estimate is the zone's.
func (g *Group) indexLocked(pa *Path) {
	g.byID[pa.target.Key.ID] = pa
	now := g.prober.now()
	for _, f := range g.early[pa.target.Key.ID] {
		if f.incarnation == pa.target.Incarnation && pa.acceptsLocked(f.at, now) {
			pa.putVoteLocked(f.vote)
		}
	}
	delete(g.early, pa.target.Key.ID)
}

func (g *Group) unindexLocked(pa *Path) {
	if g.byID[pa.target.Key.ID] == pa {
		delete(g.byID, pa.target.Key.ID)
	}
}

// countLocked finds out who is there: those that were heard of lately.
func (g *Group) countLocked(now time.Duration) {
	before := len(g.live)
	g.live = g.live[:0]
	for name, r := range g.reporters {
		if now-r.at > reporterTimeout {
			delete(g.reporters, name)
			continue
		}
		g.live = append(g.live, r)
	}
	if len(g.live) != before {
		g.unranked = true // how often we can measure depends on it
	}
	if len(g.live) < before {
		g.replanLocked(now) // somebody's slots are ours now
	}
}

// replanLocked plans all slots anew.
func (g *Group) replanLocked(now time.Duration) {
	for _, pa := range g.ranked {
		if pa.period > 0 && pa.cancel == nil && !pa.urgent {
			g.planLocked(pa, now)
		}
	}
}

// outrankedLocked is how many of the live reporters come before us.
func (g *Group) outrankedLocked() int { return g.aheadLocked(0, 0, 2*maxReporters) }

// reportersLocked is how many share the work, us included.
func (g *Group) reportersLocked() int { return len(g.live) + 1 }

// chooseRoleLocked decides whether we report or listen: the first maxReporters by
// the hash of their names do, and a few more, so that nobody changes sides for
// one who comes or goes.
func (g *Group) chooseRoleLocked(now time.Duration) {
	g.countLocked(now)
	switch {
	case g.listening && len(g.live) < maxReporters && rand.Float64() < joinChance:
		g.listening, g.publish = false, now
		g.unranked = true
		g.replanLocked(now)
	case !g.listening && len(g.live) >= maxReporters*5/4 && g.outrankedLocked() >= maxReporters:
		g.listening = true
		for _, pa := range g.ranked {
			if pa.probedAt == 0 && pa.probe.in != nil {
				pa.urgent = false // others will do it
			}
		}
		g.replanLocked(now)
	}
}

// firstDelayLocked is how long the first probe of a path waits. Those of a
// nearer circle are not kept waiting by the others.
func (g *Group) firstDelayLocked(pa *Path) time.Duration {
	switch turn := time.Duration(pa.circleRank) * newsDelay; {
	case g.report.Service == "":
		return time.Duration(pa.rank)*firstProbeSpacing + rand.N(firstProbeSpacing)
	case !g.caughtUp:
		return newsDelay // Share will say better
	case len(g.live) == 0:
		return turn + suppressionDelay(newsDelay)
	case g.ownsLocked(mix(pa.hash, 0)):
		return turn + rand.N(time.Duration(min(len(g.ranked), 64))*firstProbeSpacing+1)
	default:
		return turn + 2*newsDelay + suppressionDelay(2*newsDelay)
	}
}

// batchLocked is what we tell now.
func (g *Group) batchLocked(now time.Duration) wire.Batch {
	g.seq++
	g.publish = now + jitter(batchInterval)
	if !g.published {
		g.published = true
		g.replanLocked(now) // some slots are ours now
	}
	b := wire.Batch{Sequence: g.seq}
	if s := &g.prober.position; s.fitted {
		c := coord.Rounded(s.own)
		b.Coordinate = &c
	}
	for _, pa := range g.ranked {
		if len(pa.samples) > 0 && pa.target.Key.ID != "" {
			b.Samples = append(b.Samples, wire.Sample{
				ID: pa.target.Key.ID, Incarnation: pa.target.Incarnation,
				RTT: median(pa.samples), Count: len(pa.samples), Age: now - pa.samples[len(pa.samples)-1].at,
			})
		}
	}
	return b
}

func (g *Group) farewellLocked() message {
	g.seq++
	g.published = false
	return message{g.report.Subject(), wire.Batch{Sequence: g.seq, Leaving: true}}
}
