package selector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

const (
	// Beats that wait to be read. An old one is worth nothing, so there may be few.
	maxBeats     = 4096
	maxBeatBytes = 4 << 20
)

// invalid counts beats that are ignored, and when one was last logged.
type invalid struct {
	count  atomic.Uint64
	logged atomic.Int64 // on the selector's clock; 0: never
}

// log counts a beat, and logs one a minute at most: a flood must not fill the log.
func (i *invalid) log(log *slog.Logger, now time.Duration, subject string, err error) {
	i.count.Add(1)
	at := int64(now) + 1
	if last := i.logged.Load(); (last == 0 || at-last > int64(time.Minute)) && i.logged.CompareAndSwap(last, at) {
		log.Warn("ignoring a beat that is not valid; more of them are only counted for a minute", "subject", subject, "error", err)
	}
}

// listen receives the beats of the instances of a service until that is stopped.
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
			svc.beat(msg.Subject, msg.Data)
		}
	}
	if svc.run.Err() == nil && !errors.Is(err, context.Canceled) {
		s.log.Error("beats are not heard any more, calls in flight have to do", "service", svc.name, "error", err)
	}
}

// beat stores a beat with the node of its instance.
func (svc *service) beat(subject string, data []byte) {
	key, err := events.ParseBeatKey(strings.TrimPrefix(subject, svc.sel.subject))
	var beat events.Beat
	if err == nil {
		beat, err = events.DecodeBeat(data)
	}
	if err == nil && key.Service != svc.name {
		err = fmt.Errorf("selector: a beat of service %q", key.Service)
	}
	if err != nil {
		svc.sel.invalidBeats.log(svc.sel.log, svc.Now(), subject, err)
		return
	}
	var at events.Instance
	at.Service, at.Location.Region, at.Location.Zone, at.ID = key.Service, key.Region, key.Zone, key.ID
	svc.mu.Lock()
	defer svc.mu.Unlock()
	i, ok := slices.BinarySearchFunc(svc.members.list, &at, func(m table.Member, at *events.Instance) int { return m.In.Compare(at) })
	if !ok {
		return
	}
	m := &svc.members.list[i]
	if beat.Incarnation != "" && beat.Incarnation != m.In.Incarnation {
		return // of an earlier incarnation, or of one that is not listed yet
	}
	m.SetBeat(beat, table.Ticks(svc.Now()))
}
