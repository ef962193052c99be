package latency

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// message is what is to be published.
type message struct {
	subject string
	batch   wire.Batch
}

// loop ranks, reports, fits coordinates and exchanges them when it is time,
// until ctx ends.
func (p *Prober) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wakeLoop:
		case <-timer.C:
		}
		p.mu.Lock()
		now := p.now()
		for g := range p.groups {
			if g.changed {
				p.rankSoonLocked(g, now)
			}
		}
		if now >= p.nextTick {
			p.tickLocked(ctx, now)
		}
		out, stops := p.outgoingLocked(now)
		wait, ok := p.idleLocked(p.now())
		p.mu.Unlock()

		for _, stop := range stops {
			stop()
		}
		p.send(out)
		if ok {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
	}
}

// tickLocked is what is done once a second while there are groups.
func (p *Prober) tickLocked(ctx context.Context, now time.Duration) {
	p.nextTick = now + rankInterval
	for g := range p.groups {
		if g.report.Service != "" {
			g.chooseRoleLocked(now)
		}
		if g.unranked {
			p.rankSoonLocked(g, now)
		}
	}
	p.position.fitLocked(now)
	for _, pa := range p.position.exchangesLocked(now) {
		p.running.Go(func() { p.position.exchange(ctx, pa) })
	}
}

// rankSoonLocked ranks a group, unless that is long and was ranked just now.
func (p *Prober) rankSoonLocked(g *Group, now time.Duration) {
	if g.rankedAt == 0 || now-g.rankedAt >= rankInterval*time.Duration(len(g.members)/2000) {
		g.rankLocked(now)
	}
}

// outgoingLocked is what is to be published now, and the subscriptions to end.
func (p *Prober) outgoingLocked(now time.Duration) (out []message, stops []func()) {
	for g := range p.groups {
		if g.report.Service == "" || !g.caughtUp || g.listening || now < g.publish {
			continue
		}
		if g.chooseRoleLocked(now); !g.listening { // there may be enough of us by now
			out = append(out, message{g.report.Subject(), g.batchLocked(now)})
		}
	}
	for _, g := range p.closing {
		if g.stop != nil {
			stops = append(stops, g.stop)
			g.stop = nil
		}
		if g.published {
			out = append(out, g.farewellLocked())
		}
	}
	p.closing = nil
	return out, stops
}

// send publishes. What does not go out is sent again with the next batch.
func (p *Prober) send(out []message) {
	for _, m := range out {
		if data, err := wire.EncodeBatch(m.batch); err == nil {
			_ = p.c.Bus.Publish(m.subject, data)
		}
	}
}

// idleLocked is how long there is nothing to do, not ok while there are no
// groups.
func (p *Prober) idleLocked(now time.Duration) (wait time.Duration, ok bool) {
	if len(p.groups) == 0 {
		return 0, false
	}
	next := p.nextTick
	for g := range p.groups {
		if g.report.Service != "" && g.caughtUp && !g.listening {
			next = min(next, g.publish)
		}
	}
	return max(next-now, 0), true
}
