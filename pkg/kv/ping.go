package kv

import (
	"strings"

	"github.com/nats-io/nats.go"
)

// Limits of the pings that wait for an answer: more of them, from a faulty caller,
// are dropped.
const (
	maxPings     = 1000
	maxPingBytes = 64 << 10
)

// answerPings answers pings of the instance from now on, or no longer. They
// have a subscription of their own, which nats.go makes anew after a reconnect,
// and a goroutine of its own: no flood of them delays a heartbeat.
func (n *announcer) answerPings(yes bool) {
	switch {
	case !yes && n.pings != nil:
		_ = n.pings.Unsubscribe() // fails when the connection is closed, and they with it
		n.pings = nil
	case yes && (n.pings == nil || !n.pings.IsValid()):
		sub, err := n.r.link.Conn.Subscribe(n.r.link.Live+n.in.Load().Key().Ping(), n.pong)
		if err != nil {
			return // the connection is closed: the next exchange with the registry says so
		}
		_ = sub.SetPendingLimits(maxPings, maxPingBytes) // fails as above
		n.pings = sub
	}
}

// pong answers a ping. NATS does not check that the sender may publish on the reply
// subject. So nothing is sent to a subject where it might be taken for a record or a
// command, nor to another instance's pings, which would answer in turn.
func (a *Announcement) pong(msg *nats.Msg) {
	if msg.Reply == "" || msg.Reply[0] == '$' || strings.HasPrefix(msg.Reply, a.r.link.Live) {
		return
	}
	var answer []byte
	if a.opts.Locator != nil {
		answer = a.opts.Locator.Answer(msg.Data)
	}
	_ = msg.Respond(answer) // the caller's ping times out
}
