package latency

import (
	"math/rand/v2"
	"time"
)

// A group whose service is not called is measured less. After dozeAfter it dozes: it
// leaves the reporters of the zone, and measures each path dozeFactor times less often,
// unless it heard of another caller's measurement. It publishes what it measured in a
// batch marked Leaving: other reporters count its samples and give it no slots. So the
// callers that doze measure about as much together as one of them would alone, and those
// that are awake share their slots without it.
// After sleepAfter it measures nothing. It still hears what others measure.
type pace uint8

const (
	awake pace = iota
	dozing
	asleep
)

// dozeFactor is how much less often a group that dozes is measured.
const dozeFactor = 10

// rareFactor is how much less often a target is measured that is [Target.Rare].
const rareFactor = 8

// Used notes that the service of the group was called. A group is measured less from ten
// minutes after the last call on, and from an hour after it on not at all; at the next
// call what is not known any more is measured at once. A group for which Used was never
// called is always measured. It is cheap, but takes a lock: once a second is enough.
func (g *Group) Used() {
	p := g.prober
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.groups[g] {
		return
	}
	now := p.now()
	g.used, g.usedAt = true, now
	if g.pace != awake {
		g.wakeLocked(now)
	}
}

// slowDownLocked lets a group doze or sleep that was not used for long.
func (g *Group) slowDownLocked(now time.Duration) {
	switch idle := now - g.usedAt; {
	case !g.used || idle < dozeAfter:
	case idle >= sleepAfter && g.pace != asleep:
		g.pace, g.news = asleep, false
		for _, pa := range g.ranked {
			pa.probe.remove()
		}
	case g.pace == awake:
		g.pace, g.listening = dozing, false
		g.unranked = true // the periods are others
	}
}

// wakeLocked measures the paths of which nothing was heard lately, at once.
func (g *Group) wakeLocked(now time.Duration) {
	p := g.prober
	g.pace, g.news, g.firstProbes = awake, false, 0
	g.unranked, g.changed = true, true
	g.publish = now + jitter(batchInterval)
	g.countLocked(now)
	g.listening = len(g.live) >= maxReporters && g.outrankedLocked() >= maxReporters
	for _, pa := range g.ranked {
		if !g.has(pa) || !pa.probed() || pa.cancel != nil {
			continue
		}
		if now-pa.newestLocked(now-2*p.o.Interval) < 2*p.o.Interval || g.listening {
			g.planLocked(pa, now)
			continue
		}
		pa.urgent, pa.probedAt = true, 0
		pa.next = now + g.firstDelayLocked(pa)
		p.queueProbeLocked(pa)
	}
	wake(p.wakeLoop)
}

// dozeEndLocked is when a path of a group that dozes is measured next: it depends on when
// it was measured last, and differs between callers, so that the first one's result comes
// before the others begin.
func (g *Group) dozeEndLocked(pa *Path, now time.Duration) time.Duration {
	every := pa.period / time.Duration(g.prober.o.PerInterval)
	last := max(pa.newestLocked(-every), pa.probedAt)
	return max(last, now-every) + every*7/10 + suppressionDelay(every*7/20)
}

// tellLocked makes the results of a group that dozes due, for others that doze.
func (g *Group) tellLocked(now time.Duration) {
	if g.report.Service == "" || g.news {
		return
	}
	g.news = true
	g.publish = now + rand.N(newsDelay/5)
	wake(g.prober.wakeLoop)
}

// dozingLocked is the batch of a group that does not report: its last one as a reporter,
// or what it has measured since.
func (g *Group) dozingLocked(now time.Duration) message {
	last := g.leavingLocked()
	if g.news {
		last.batch = g.samplesLocked(now)
		last.batch.Leaving = true
	}
	g.news = false
	return last
}
