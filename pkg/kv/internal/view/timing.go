package view

import (
	"time"
)

// The times of suspicion, shortest first.
const (
	// expiryGrace is how long an instance that expired alone stays listed:
	// instances that expire together are heard of one after the other.
	expiryGrace = 200 * time.Millisecond
	// Comeback is how long a live instance may take to announce itself again
	// when the registry is back: twice the slowest retry of an announcer.
	Comeback = 10 * time.Second
	// maxUnconfirmed is how long an instance is kept that no snapshot has ever
	// listed: it was stored just before the registry lost all, or is made up.
	maxUnconfirmed = 30 * time.Second
	// keepDeparted: departures stay in snapshots for this long.
	keepDeparted = time.Minute
	// maxSuspect is how long an instance is kept that vanished without a removal,
	// or expired together with many others.
	maxSuspect = 10 * time.Minute
	// maxOutOfReach is how long an instance of another region is kept of which
	// nothing has been heard for as long as its bucket would keep its record.
	maxOutOfReach = 6 * time.Hour
)

// maxDeparted: snapshots hold at most this many departures per service.
const maxDeparted = 10_000

// massPercent: when more than this percentage of the instances of a service, or of
// those in one zone of it, expire within a ttl, that is a mass expiry.
const massPercent = 15
