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
	// keepDeparted is how long it is told why an instance left.
	keepDeparted = time.Minute
	// maxSuspect is how long an instance is kept that vanished without a removal,
	// or expired together with many others.
	maxSuspect = 10 * time.Minute
	// maxOutOfReach is how long an instance of another region is kept of which
	// nothing has been heard for as long as its bucket would keep its record.
	maxOutOfReach = 6 * time.Hour
)

// maxDeparted is of how many instances of a service it is told why they left.
const maxDeparted = 10_000

// massPercent: more than so many of the instances of a service, or of those in
// one zone of it, that expire within a ttl are many.
const massPercent = 15
