package tail

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// What the constants of timing.go promise each other.
func TestTimesFitTogether(t *testing.T) {
	late := func(d time.Duration) time.Duration { return d * 11 / 10 } // with its jitter
	for name, ok := range map[string]bool{
		"questions are asked again after 1.5, 3, 6, 12, 24 s":           retryWait == 1500*time.Millisecond && retryWait<<maxDoubling == 24*time.Second,
		"a first question waits less where there is a view on disk":     firstWait < retryWait,
		"a forged change is undone in 7 s":                              late(confirmEvery)+settle+catchUp+settle < 7*time.Second,
		"a lease is asked for between two checks":                       leaseEvery < checkEvery,
		"leases of the default ttl are renewed between two questions":   events.DefaultTTL/3 <= leaseEvery,
		"two checks mark a view stale that cannot be verified, in 45 s": late(2*checkEvery) <= 45*time.Second,
		"the leader is asked for as long as an election may take":       leaderTimeout > 4*9*time.Second,
		"a full read is rare beside checks":                             snapshotEvery > 10*checkEvery,
		"a rest is shorter than a change may take to be seen":           maxRest <= settle,
		"what rests longest is cheap beside the rest":                   restFactor*cheap < maxRest,
	} {
		if !ok {
			t.Errorf("not so: %s", name)
		}
	}
}
