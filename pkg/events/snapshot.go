package events

import (
	"cmp"
	"time"
)

// Snapshot is everything that one source knows about one service. It is
// always complete, never a delta, and nobody changes it after it is sent: a
// lost update heals itself with the next.
type Snapshot struct {
	Service string
	// Entries are ordered by [Instance.Compare]. An entry whose Instance pointer is the
	// same as in the snapshot before has not changed.
	Entries []Entry
	// Stale is set while the source cannot be reached: Entries are the last
	// that were known.
	Stale bool
	// StaleSince is when the source last said anything, if Stale is set and it
	// is known.
	StaleSince time.Time
	// Left are the instances that left within the last minute or so, in the order
	// in which they did. It says why an entry of an earlier snapshot is missing.
	// Sources that do not know leave it out.
	Left []Departure
}

// Entry is one instance of a snapshot.
type Entry struct {
	*Instance
	// Suspect says that its lease is gone, or it vanished without a word,
	// and that nothing has proven it dead yet. It is used after all others.
	Suspect bool
	// Evacuated says that an operator has ordered its place to be left, see
	// [Evacuation]. It is used when there is nothing better.
	Evacuated bool
	// Revision is the version of its record at the source, 0 if the source
	// has none.
	Revision uint64
}

// Departure is an instance that left its service.
type Departure struct {
	Key         Key
	Incarnation string
	// Reason is [ReasonDeregistered], [ReasonExpired], or empty if the source does
	// not know.
	Reason string
	// At is when the source took it out, by its own clock.
	At time.Time
}

// Why an instance left a registry.
const (
	ReasonDeregistered = "deregistered" // it said so itself
	ReasonExpired      = "expired"      // it did not renew its lease
)

// Compare orders instances by service, region, zone and id, as they stand in a
// [Snapshot].
func (in *Instance) Compare(other *Instance) int {
	return cmp.Or(
		cmp.Compare(in.Service, other.Service),
		cmp.Compare(in.Location.Region, other.Location.Region),
		cmp.Compare(in.Location.Zone, other.Location.Zone),
		cmp.Compare(in.ID, other.ID))
}
