package daemon

import "time"

// Durations, from the shortest on. A connection to NATS retries for ever. It notices
// a dead server after maxPings pings without an answer, within 6 s: early enough to
// renew leases of the default ttl (15 s) by way of another server.
const (
	reconnectWait   = 100 * time.Millisecond // between two rounds of attempts to connect
	reconnectJitter = 150 * time.Millisecond // at most this much more
	tryWait         = time.Second            // for the server, in TryConnect
	statusInterval  = time.Second            // between two looks at what systemd is told
	dialTimeout     = 2 * time.Second        // for one attempt to connect
	pingInterval    = 2 * time.Second
	maxPings        = 2               // without an answer
	flushTimeout    = 2 * time.Second // for telemetry that is sent at the end

	readHeaderTimeout = 5 * time.Second // for the head of a request; bodies and proxied answers have no limit
	remindAfter       = time.Minute     // between two log lines of one trouble
	idleTimeout       = 2 * time.Minute // for an idle connection of a client
)
