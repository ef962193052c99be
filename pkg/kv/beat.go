package kv

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/wire"
)

// beat publishes the load of the instance until ctx ends. It has a goroutine of
// its own: a slow Load delays no heartbeat.
func (a *Announcement) beat(ctx context.Context) {
	subject := a.r.link.Live + a.in.Load().Key().Beat()
	var wrong error // what was wrong with the last one
	for {
		select {
		case <-time.After(wire.Jitter(a.opts.BeatInterval)):
		case <-ctx.Done():
			return
		}
		if !a.beatsWanted() {
			continue
		}
		beat, ok := a.opts.Load()
		if !ok {
			continue
		}
		beat.Incarnation = a.in.Load().Incarnation
		data, err := events.EncodeBeat(beat)
		if err != nil && !sameText(err, wrong) {
			a.log.Warn("the load is not published", "error", err)
		}
		wrong = err
		if err == nil && a.beatsWanted() {
			_ = a.r.link.Conn.Publish(subject, data) // the next one is due soon
		}
	}
}

// beatsWanted reports whether a beat would be of use now. nats.go keeps what is published
// while disconnected, and sends it when it is no longer true.
func (a *Announcement) beatsWanted() bool {
	return a.State().Registered() && a.r.link.Conn.IsConnected()
}
