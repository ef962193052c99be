package kv

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/kv/internal/view"
)

// What the constants of timing.go promise each other.
func TestTimesFitTogether(t *testing.T) {
	const (
		election = 8 * time.Second // a change of a stream's leader takes 4 to 9 s
		late     = time.Second / 2 // the server counts ttls in whole seconds
	)
	for _, ttl := range []time.Duration{time.Second, events.DefaultTTL, time.Minute, time.Hour} {
		if renewals := ttl / RenewEvery(ttl); renewals < 3 {
			t.Errorf("ttl %v: a lease is renewed %d times in a ttl", ttl, renewals)
		}
		if after := RewriteAfter(ttl) * 11 / 10; after+ttl >= recordTTL(ttl) {
			t.Errorf("ttl %v: a record is written after %v and kept for %v", ttl, after, recordTTL(ttl))
		}
		if wait := rejoinDelay(ttl, ttl-ttl/10); wait > ttl/10 {
			t.Errorf("ttl %v: a lease that ends in %v is renewed after %v", ttl, ttl/10, wait)
		}
	}
	if left := events.DefaultTTL - late - RenewEvery(0)*11/10 - retryEvery*11/10; left < election {
		t.Errorf("the default lease outlasts %v without a leader, want %v", left, election)
	}
	for name, ok := range map[string]bool{
		"a suspect has time to come back":                   view.Comeback >= 2*retrySlow,
		"retries become rarer":                              retryEvery < retrySlow && retrySlow < retryLong,
		"an exchange ends before the next renewal":          opTimeout < RenewEvery(0),
		"draining is heard of before in-flight calls count": propagate < checkInterval,
		"a check ends before the next one begins":           checkTimeout <= checkInterval,
		"a new instance is checked sooner":                  firstChecks < checkInterval,
		"all are back before their leases end":              maxRejoin < RenewEvery(0),
		"samples are kept for some beats":                   samplesAge > 3*beatInterval,
		"a record outlives what is kept of it elsewhere":    minRecord > samplesAge,
	} {
		if !ok {
			t.Errorf("not so: %s", name)
		}
	}
}
