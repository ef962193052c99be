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

// Rush is how long an announcer waits at most when it is connected again.
func Rush(ttl, ago time.Duration) time.Duration { return rejoinDelay(ttl, ago) }
