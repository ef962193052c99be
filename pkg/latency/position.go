package latency

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/coord"
	"github.com/proxima-discovery/proxima/pkg/latency/internal/wire"
)

// position is this process' network coordinate.
type position struct {
	prober *Prober

	// What follows is guarded by prober.mu.

	own         events.Coordinate
	known       bool              // own was fitted, or taken from another reporter
	fitted      bool              // own was fitted by this process
	fittedSince time.Duration     // when it was first fitted
	stale       bool              // the measurements have changed since the last fit
	nextFit     time.Duration     // the next fit is not before
	points      []coord.Neighbour // of the last fit
}

const (
	// maxUsefulError is the error up to which a coordinate predicts distances.
	maxUsefulError = 0.75
	// exchangesAtOnce is how many instances are pinged in one round of the loop.
	exchangesAtOnce = 6
)

// knows reports whether a coordinate can be compared with own.
func (s *position) knows(c *events.Coordinate) bool {
	return s.known && s.own.Error < maxUsefulError && c.Error < maxUsefulError
}

// predict is the round trip to a coordinate that knows has accepted.
func (s *position) predict(c *events.Coordinate) time.Duration {
	return coord.Predict(&s.own, c, s.points)
}

// adoptLocked makes own the coordinate of a reporter in the same zone, until
// this process fits its own.
func (s *position) adoptLocked(c *events.Coordinate) {
	if s.fitted || c == nil || c.Error > maxUsefulError || s.known && s.own.Error <= c.Error {
		return
	}
	s.own, s.known = *c, true
	s.repredictLocked()
}

// fitLocked fits own, if measurements have changed.
func (s *position) fitLocked(now time.Duration) {
	p := s.prober
	if !s.stale || p.o.NoCoordinates || now < s.nextFit {
		return
	}
	s.stale = false
	if s.fitted && now-s.fittedSince > warmUp {
		s.nextFit = now + refitInterval
	}
	s.points = s.points[:0]
	for g := range p.groups {
		for _, pa := range g.ranked {
			if len(s.points) == coord.MaxNeighbours {
				break
			}
			if e, _ := unpackEstimate(pa.estimate.Load()); pa.coordinate != nil && e.Measured() {
				s.points = append(s.points, coord.Neighbour{At: *pa.coordinate, RTT: e.Distance.Seconds()})
			}
		}
	}
	if len(s.points) == 0 {
		return
	}
	if !s.fitted {
		s.fittedSince = now
		if !s.known {
			s.own = coord.New()
		}
	}
	coord.Fit(&s.own, s.points)
	s.fitted, s.known = true, true
	s.repredictLocked()
}

// repredictLocked renews the estimates of paths without measurements.
func (s *position) repredictLocked() {
	p := s.prober
	now := p.now()
	for g := range p.groups {
		for _, pa := range g.ranked {
			if len(pa.samples) == 0 && len(pa.votes) == 0 && pa.coordinate != nil {
				pa.refreshLocked(now)
			}
		}
	}
}

// exchangesLocked chooses the instances to ping: of the paths that this process
// has measured, those of the oldest ping.
func (s *position) exchangesLocked(now time.Duration) []*Path {
	p := s.prober
	if p.c.Bus == nil || p.o.NoCoordinates {
		return nil
	}
	every := exchangeInterval
	if s.fitted && now-s.fittedSince > warmUp {
		every = exchangeIntervalLater
	}
	var chosen []*Path
	for g := range p.groups {
		if g.listening || g.pace != awake {
			continue
		}
		for _, pa := range g.ranked {
			if len(pa.samples) == 0 || pa.target.Key.ID == "" || pa.exchangedAt > 0 && now-pa.exchangedAt < every {
				continue
			}
			chosen = append(chosen, pa)
		}
	}
	slices.SortFunc(chosen, func(a, b *Path) int { return cmp.Compare(a.exchangedAt, b.exchangedAt) })
	chosen = chosen[:min(len(chosen), exchangesAtOnce)]
	for _, pa := range chosen {
		pa.exchangedAt = max(now, 1)
	}
	return chosen
}

// exchange pings an instance with its round trip and own, and takes the instance's
// coordinate from the answer.
func (s *position) exchange(ctx context.Context, pa *Path) {
	p := s.prober
	p.mu.Lock()
	if !s.known {
		s.own, s.known = coord.New(), true
	}
	ping := wire.Ping{Reporter: p.c.Reporter, RTT: median(pa.samples), Coordinate: coord.Rounded(s.own)}
	p.mu.Unlock()
	data, err := wire.EncodePing(ping)
	if err != nil {
		return // its samples have expired meanwhile
	}
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	answer, err := p.c.Bus.Request(ctx, pa.target.Key.Ping(), data)
	if err == nil {
		var c events.Coordinate
		if c, err = wire.DecodeCoordinate(answer); err == nil {
			pa.SetCoordinate(&c)
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pa.exchangedAt = p.now() + exchangeRetry
}
