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
	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	// maxReporters is how many of the callers of a service in one zone
	// measure and report. The others listen.
	maxReporters = 32
	// maxVotes is how many other reporters have a vote on a distance: the last
	// that measured it.
	maxVotes = 5
	// maxEarly is how many instances that this caller does not know votes are
	// kept for.
	maxEarly = 4096
	// maxEarlyVotes is how many votes are kept for one of them, in all incarnations and
	// places.
	maxEarlyVotes = 4 * maxVotes
	// joinChance is the chance in each second that a listener becomes a reporter
	// while there are too few.
	joinChance = 1.0 / 32
)

// shared is the part of a group that concerns the other callers of the zone.
type shared struct {
	report    wire.Report   // this caller's; without a service nothing is shared
	stop      func()        // ends the subscription
	caughtUp  bool          // the batches published before Share have been read
	listening bool          // others report, this caller does not
	published bool          // the other reporters know this one
	news      bool          // while the group dozes: there are results to publish
	seq       uint64        // of the last batch published
	publish   time.Duration // when the next batch is due

	reporters map[string]*reporter
	live      []*reporter        // the reporters, and until countLocked those that have left
	byID      map[string][]*Path // an id is unique in a zone: at most one of each key
	early     map[string][]earlyVote
	sweptAt   time.Duration // when old entries of early were last dropped

	unloaded   []Unloaded       // this caller's, for the next batches
	onUnloaded func([]Unloaded) // nil: those of others are ignored
}

// Unloaded is how long calls to the instances of a circle take without load, as a caller
// has measured it. Its fields are
//
//   - Circle, its name: zone, region …;
//   - Protocol of the endpoints that are called, empty for any;
//   - Duration without the round trip, in whole microseconds: above 0, at most a minute.
type Unloaded = wire.Unloaded

// reporter is another caller in the zone.
type reporter struct {
	name string
	hash uint64
	seq  uint64        // of its last batch
	at   time.Duration // when it was last heard
	gone bool          // it has left
}

func newReporter(name string) *reporter {
	return &reporter{name: name, hash: xxhash.Sum64String(name)}
}

// earlyVote is a vote on an instance that this caller does not know yet.
type earlyVote struct {
	incarnation string
	place       string // empty: not said
	vote
	receivedAt time.Duration
}

// Share exchanges measurements with the other callers of the service in the
// same zone, until the group is closed. It returns when the batches of the past
// two minutes have been read, or when ctx ends. Without a Bus or a zone it does
// nothing.
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
	g.reporters, g.byID, g.early = map[string]*reporter{}, map[string][]*Path{}, map[string][]earlyVote{}
	g.live = nil
	g.publish = p.now() + jitter(batchInterval)
	p.sharing[g.service] = g
	for _, m := range g.members {
		if g.has(m.Path) && m.target.Key.ID != "" {
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
	for _, pa := range g.ranked { // now that the other reporters are known
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

// TellUnloaded has the next batches say how long calls take without load. The list takes
// the place of the one before, and is not kept.
func (g *Group) TellUnloaded(list []Unloaded) {
	g.prober.mu.Lock()
	defer g.prober.mu.Unlock()
	g.unloaded = append(g.unloaded[:0], list...)
}

// OnUnloaded has f called with what other callers of the zone tell of durations without
// load. It is to be called before [Group.Share]. Calls come one at a time and hold no lock
// of the prober; one more may come after the group was closed.
func (g *Group) OnUnloaded(f func([]Unloaded)) {
	g.prober.mu.Lock()
	defer g.prober.mu.Unlock()
	g.onUnloaded = f
}

// hear reads a batch of another reporter.
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
	heard := g.takeLocked(&r, &b, age)
	onUnloaded := g.onUnloaded
	p.mu.Unlock()
	if heard && onUnloaded != nil && len(b.Unloaded) > 0 {
		onUnloaded(b.Unloaded)
	}
}

// takeLocked takes in a batch. It reports whether it may be believed.
func (g *Group) takeLocked(r *wire.Report, b *wire.Batch, age time.Duration) bool {
	p := g.prober
	if p.closed {
		return false
	}
	now := p.now()
	rep := g.reporters[r.Reporter]
	known := rep != nil && now-rep.at <= reporterTimeout
	switch {
	case rep == nil && b.Leaving: // it dozes: its samples count, and it gets no slots
		rep = newReporter(r.Reporter)
	case rep == nil:
		if len(g.reporters) >= 16*maxReporters {
			p.rejected.Add(1) // too many: some are forged, or will time out
			return false
		}
		rep = newReporter(r.Reporter)
		g.reporters[rep.name] = rep
		g.live = append(g.live, rep)
		g.unranked = true // the periods depend on the number of reporters
	case b.Sequence <= rep.seq:
		p.rejected.Add(1) // a replay
		return false
	}
	rep.seq, rep.at = b.Sequence, now-age
	if b.Leaving {
		rep.gone = true
		delete(g.reporters, rep.name)
		if known {
			g.countLocked(now) // any other change is found by chooseRoleLocked
		}
	}
	for i := range b.Samples {
		g.voteLocked(rep, &b.Samples[i], now, age)
	}
	p.position.adoptLocked(b.Coordinate)
	return true
}

// voteLocked makes a reporter's sample its vote.
func (g *Group) voteLocked(rep *reporter, s *wire.Sample, now, age time.Duration) {
	v := vote{rep.hash, sample{s.RTT, now - age - s.Age}}
	pa, unclear := g.namedLocked(s.ID, s.Incarnation, s.Place)
	if pa == nil {
		if !unclear {
			g.keepEarlyLocked(s.ID, earlyVote{s.Incarnation, s.Place, v, now})
		}
		return
	}
	if !pa.acceptsLocked(v.at, now) {
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
		// It answers another reporter again. All callers learn of it at once, so
		// they spread their probes.
		pa.urgent, pa.next = true, now+rand.N(g.prober.o.Interval)
		g.prober.queueProbeLocked(pa)
	case pa.urgent && !known.Measured() && pa.failures.Load() == 0:
		g.planLocked(pa, now) // another reporter has measured it
	case (pa.contends || v.rtt < known.Distance) && known.Measured() && doubtful(v.rtt, known.Distance) &&
		!repeats && (pa.probedAt == 0 || now-pa.probedAt > g.prober.o.Interval/2):
		// The distance has changed, or the reporter is wrong: two other reporters
		// probe, unless they just have.
		if g.aheadLocked(mix(pa.hash, rep.seq), rep.hash, 2) < 2 {
			g.probeSoonLocked(pa, now)
		}
	}
}

// namedLocked returns the path that a sample is of, nil if there is none. That is unclear
// when instances of two places have the same id and incarnation, and the place is not said.
func (g *Group) namedLocked(id, incarnation, place string) (found *Path, unclear bool) {
	for _, pa := range g.byID[id] {
		if !pa.isNamed(incarnation, place) {
			continue
		}
		if found != nil {
			return nil, true
		}
		found = pa
	}
	return found, false
}

// isNamed reports whether a sample of the path's id is of the path.
func (pa *Path) isNamed(incarnation, place string) bool {
	return pa.target.Incarnation == incarnation && (place == "" || place == pa.place())
}

// place is the region and zone of the instance, by which samples tell instances with the
// same name apart.
func (pa *Path) place() string {
	return topology.Location{Region: pa.target.Key.Region, Zone: pa.target.Key.Zone}.String()
}

// keepEarlyLocked keeps a vote on an instance that this caller may learn of
// later.
func (g *Group) keepEarlyLocked(id string, f earlyVote) {
	list, known := g.early[id]
	if !known && len(g.early) >= maxEarly {
		if f.receivedAt-g.sweptAt < time.Second {
			return // forged names must not cost a sweep each
		}
		g.sweptAt = f.receivedAt
		maps.DeleteFunc(g.early, func(_ string, list []earlyVote) bool { return f.receivedAt-list[0].receivedAt > reporterTimeout })
		if len(g.early) >= maxEarly {
			return
		}
	}
	same := func(other earlyVote) bool { return other.incarnation == f.incarnation && other.place == f.place }
	list = slices.DeleteFunc(list, func(other earlyVote) bool { return other.reporter == f.reporter && same(other) })
	votes, oldest := 0, 0
	for i, other := range list {
		if same(other) {
			votes, oldest = votes+1, i
		}
	}
	switch {
	case votes == maxVotes:
		list = slices.Delete(list, oldest, oldest+1)
	case len(list) == maxEarlyVotes:
		list = list[:maxEarlyVotes-1]
	}
	g.early[id] = slices.Insert(list, 0, f) // the newest first
}

// indexLocked adds a path to byID, in the place of another one with the same key. It gets
// the votes that came before it, so that its first estimate is the zone's.
func (g *Group) indexLocked(pa *Path) {
	id := pa.target.Key.ID
	same := func(other *Path) bool { return other.target.Key == pa.target.Key }
	g.byID[id] = append(slices.DeleteFunc(g.byID[id], same), pa)
	early := g.early[id]
	if len(early) == 0 {
		return
	}
	now := g.prober.now()
	left := early[:0]
	for _, f := range early {
		if !pa.isNamed(f.incarnation, f.place) {
			left = append(left, f)
		} else if pa.acceptsLocked(f.at, now) {
			pa.putVoteLocked(f.vote)
		}
	}
	if g.early[id] = left; len(left) == 0 {
		delete(g.early, id)
	}
}

func (g *Group) unindexLocked(pa *Path) {
	id := pa.target.Key.ID
	list := g.byID[id]
	i := slices.Index(list, pa)
	if i < 0 {
		return
	}
	if g.byID[id] = slices.Delete(list, i, i+1); len(list) == 1 {
		delete(g.byID, id)
	}
}

// countLocked makes live the reporters heard within reporterTimeout.
func (g *Group) countLocked(now time.Duration) {
	before := len(g.live)
	g.live = slices.DeleteFunc(g.live, func(r *reporter) bool {
		if !r.gone && now-r.at > reporterTimeout {
			r.gone = true
			delete(g.reporters, r.name)
		}
		return r.gone
	})
	if len(g.live) < before {
		g.unranked = true   // the periods depend on the number of reporters
		g.replanLocked(now) // the slots of the missing reporter have new owners
	}
}

// replanLocked plans the next slot of every path.
func (g *Group) replanLocked(now time.Duration) {
	for _, pa := range g.ranked {
		if pa.period > 0 && pa.cancel == nil && !pa.urgent {
			g.planLocked(pa, now)
		}
	}
}

// outrankedLocked is how many live reporters come before this caller.
func (g *Group) outrankedLocked() int { return g.aheadLocked(0, 0, 2*maxReporters) }

// chooseRoleLocked decides whether this caller reports or listens. The first
// maxReporters by the hash of their names report. Up to a quarter more do, so
// that one reporter more or less changes no roles.
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
				pa.urgent = false // the reporters probe it
			}
		}
		g.replanLocked(now)
	}
}

// firstDelayLocked is how long the first probe of a path waits. A nearer circle
// comes first.
func (g *Group) firstDelayLocked(pa *Path) time.Duration {
	switch turn := time.Duration(pa.circleRank) * newsDelay; {
	case g.report.Service == "":
		return time.Duration(pa.rank)*firstProbeSpacing + rand.N(firstProbeSpacing)
	case !g.caughtUp:
		return newsDelay // Share plans it anew
	case len(g.live) == 0:
		return turn + suppressionDelay(newsDelay)
	case g.ownsLocked(mix(pa.hash, 0)):
		return turn + rand.N(time.Duration(min(len(g.ranked), 64))*firstProbeSpacing+1)
	default:
		return turn + 2*newsDelay + suppressionDelay(2*newsDelay)
	}
}

// publishesLocked reports whether this caller publishes batches. A group that never
// had members has nothing to tell; one that lost them goes on.
func (g *Group) publishesLocked() bool {
	if g.report.Service == "" || !g.caughtUp {
		return false
	}
	if g.pace != awake {
		return g.news || g.published
	}
	return !g.listening && (g.published || len(g.members) > 0)
}

// batchLocked is the next batch to publish.
func (g *Group) batchLocked(now time.Duration) wire.Batch {
	g.seq++
	g.publish = now + jitter(batchInterval)
	if !g.published {
		g.published = true
		g.replanLocked(now) // from now on some slots belong to this caller
	}
	return g.samplesLocked(now)
}

// samplesLocked is a batch of all that this caller has measured.
func (g *Group) samplesLocked(now time.Duration) wire.Batch {
	b := wire.Batch{Sequence: g.seq, Unloaded: slices.Clone(g.unloaded)}
	if s := &g.prober.position; s.fitted {
		c := coord.Rounded(s.own)
		b.Coordinate = &c
	}
	for _, pa := range g.ranked {
		if len(pa.samples) > 0 && pa.target.Key.ID != "" {
			s := wire.Sample{
				ID: pa.target.Key.ID, Incarnation: pa.target.Incarnation,
				RTT: median(pa.samples), Count: len(pa.samples), Age: now - pa.samples[len(pa.samples)-1].at,
			}
			if _, unclear := g.namedLocked(s.ID, s.Incarnation, ""); unclear {
				s.Place = pa.place()
			}
			b.Samples = append(b.Samples, s)
		}
	}
	return b
}

// leavingLocked is the last batch, by which the other reporters learn that this
// one has left.
func (g *Group) leavingLocked() message {
	g.seq++
	g.published = false
	return message{g.report.Subject(), wire.Batch{Sequence: g.seq, Leaving: true}}
}
