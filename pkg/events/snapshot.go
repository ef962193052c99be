package events

import (
	"cmp"
	"time"
)

// Snapshot is all that one source knows about one service. It is always complete,
// never a delta, so that the next one repairs a lost one. It must not be changed.
type Snapshot struct {
	Service string
	// Entries are ordered by [Instance.Compare]. An entry has not changed if its
	// Instance pointer is the same as in the snapshot before.
	Entries []Entry
	// Stale is set while the source cannot be reached. Entries are then the last
	// known ones.
	Stale bool
	// StaleSince is when the source was last heard, if Stale is set and it is
	// known.
	StaleSince time.Time
	// Left are the instances that left within the last minute or so, in the order
	// in which they did. It says why an entry of an earlier snapshot is missing.
	// Sources that do not know leave it out.
	Left []Departure
}

// Entry is one instance of a snapshot.
type Entry struct {
	*Instance
	// Suspect is set when its lease has ended, or its record has vanished without
	// a message, and it may still live. Package selector picks it after usable
	// instances, before draining ones and those that fail; last of all when it does
	// not answer probes.
	Suspect bool
	// Evacuated is set when an operator has evacuated its place, see
	// [Evacuation]. Package selector picks it after usable, suspect and draining
	// instances, before those that fail.
	Evacuated bool
	// Revision is the version of its record at the source, 0 if the source has no
	// versions.
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
	ReasonDeregistered = "deregistered" // it deregistered itself
	ReasonExpired      = "expired"      // it did not renew its lease
)

// Compare orders instances by service, region, zone and id, as in a [Snapshot].
func (in *Instance) Compare(other *Instance) int {
	return cmp.Or(
		cmp.Compare(in.Service, other.Service),
		cmp.Compare(in.Location.Region, other.Location.Region),
		cmp.Compare(in.Location.Zone, other.Location.Zone),
		cmp.Compare(in.ID, other.ID))
}
