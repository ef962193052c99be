package selector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
)

const (
	// beatFresh is how long a beat counts: three are sent in that time.
	beatFresh = 15 * time.Second
	// fitAlike is by how much scores may differ and still be taken for equal.
	// Without it all callers would take the slightly better of two until its next
	// beat says what came of it.
	fitAlike = 0.05
	// Beats that wait to be looked at: an old one is worth nothing.
	maxBeats     = 4096
	maxBeatBytes = 4 << 20
)

// failures counts what is not valid, and when that was last logged.
type failures struct {
	count  atomic.Uint64
	logged atomic.Int64 // on the selector's clock; 0: never
}

// InvalidBeats is how many beats were skipped because they are malformed, or
// are said on the subject of another service.
func (s *Selector) InvalidBeats() uint64 { return s.beatsFailed.count.Load() }

// listen hears the beats of the instances of a service until that is stopped.
func (svc *service) listen() {
	s := svc.sel
	sub, err := s.nc.SubscribeSync(s.subject + "beat." + svc.name + ".>")
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = sub.SetPendingLimits(maxBeats, maxBeatBytes)
	}
	for err == nil || errors.Is(err, nats.ErrSlowConsumer) {
		var msg *nats.Msg
		if msg, err = sub.NextMsgWithContext(svc.run); err == nil {
			svc.hear(msg.Subject, msg.Data)
		}
	}
	if svc.run.Err() == nil && !errors.Is(err, context.Canceled) {
		s.log.Error("beats are not heard any more, calls in flight have to do", "service", svc.name, "error", err)
	}
}

// hear takes in a beat.
func (svc *service) hear(subject string, data []byte) {
	key, err := events.ParseBeatKey(strings.TrimPrefix(subject, svc.sel.subject))
	var beat events.Beat
	if err == nil {
		beat, err = events.DecodeBeat(data)
	}
	if err == nil && key.Service != svc.name {
		err = fmt.Errorf("selector: a beat of service %q", key.Service)
	}
	if err != nil {
		svc.sel.invalidBeat(subject, err)
		return
	}
	var at events.Instance
	at.Service, at.Location.Region, at.Location.Zone, at.ID = key.Service, key.Region, key.Zone, key.ID
	svc.mu.Lock()
	defer svc.mu.Unlock()
	i, ok := slices.BinarySearchFunc(svc.members, &at, func(m member, at *events.Instance) int { return m.in.Compare(at) })
	if !ok {
		return
	}
	m := &svc.members[i]
	if beat.Incarnation != "" && beat.Incarnation != m.in.Incarnation {
		return // of an earlier life, or of one that is not listed yet
	}
	m.beat.Store(packCost(fitness(beat), ticks(svc.sel.now())))
}

func (s *Selector) invalidBeat(subject string, err error) {
	s.beatsFailed.count.Add(1)
	// Whoever writes garbage must not fill the log too.
	now := int64(s.now()) + 1
	if last := s.beatsFailed.logged.Load(); (last == 0 || now-last > int64(time.Minute)) && s.beatsFailed.logged.CompareAndSwap(last, now) {
		s.log.Warn("ignoring a beat that is not valid; more of them are only counted for a minute", "subject", subject, "error", err)
	}
}

// fitness is what an instance has to spare by a beat: above 0, at most 1.
func fitness(b events.Beat) float32 {
	const least = 1e-6 // 0 is no beat
	return float32(max(least, 0.4*(1-b.CPU)+0.4*(1-b.Memory)+0.2/(1+float64(b.Queue))))
}

// fit is the score of a node by its last beat, 0 if that is not fresh.
func (n *node) fit(now uint32) float32 {
	score, at := unpackCost(n.beat.Load())
	if age := int32(now - at); age > int32(beatFresh/tick) || age < -int32(beatFresh/tick) {
		return 0
	}
	return score
}

// fitter is the node with more to spare, by its own word if that is known of
// both.
func fitter(a, b *node, now uint32) *node {
	fa, fb := a.fit(now), b.fit(now)
	switch {
	case fa == 0 || fb == 0 || max(fa, fb)-min(fa, fb) < fitAlike:
		return lighter(a, b, now)
	case fb > fa:
		return b
	}
	return a
}
