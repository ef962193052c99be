package kv

import "time"

// Ages is how old messages are taken to be that were stored at these times on
// the server's clock, when ours shows now.
func Ages(stored []time.Time, now time.Time) []time.Duration {
	all := make([]kept, len(stored))
	for i, at := range stored {
		all[i].at = at
	}
	date(all, now)
	ages := make([]time.Duration, len(all))
	for i := range all {
		ages[i] = all[i].age
	}
	return ages
}

// Reading and Look are what is known of another region, and what a look finds.
type (
	Reading = reading
	Look    struct {
		Reached, Sourced, Silent bool
		Born, Made, Epoch        int64
		Count, Seen, Told        uint64
	}
)

// Next is what is known after a look, and whether to read anew.
func Next(was Reading, is Look) (Reading, bool) {
	return was.next(look{is.Reached, is.Sourced, is.Silent, is.Born, is.Made, is.Epoch, is.Count, is.Seen, is.Told})
}

// Begun is what is known when that was done.
func Begun(was Reading, epoch int64) Reading { return was.begun(epoch) }

// Told is what a message says that others have found, by region.
func Told(data []byte) (map[string]Reading, error) {
	l, err := decodeLooked(data)
	return l.Regions, err
}

// Rush is how long an announcer waits at most when it is connected again.
func Rush(ttl, ago time.Duration) time.Duration { return rush(ttl, ago) }
