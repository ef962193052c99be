package table

import (
	"testing"
	"time"
)

// The times of this package must stay in this order, see timing.go.
func TestTheTimesFitTogether(t *testing.T) {
	order := []struct {
		name string
		time time.Duration
	}{
		{"sameWithin", sameWithin},
		{"blindSlack", blindSlack},
		{"nearSlack", nearSlack},
		{"tick", tick},
		{"demoteSlack", demoteSlack},
		{"leastLate", leastLate},
		{"leastPenalty", leastPenalty},
		{"busyGap", busyGap},
		{"rampEvery", rampEvery},
		{"lookLasts", lookLasts},
		{"trustedFor", trustedFor},
		{"mostPenalty", mostPenalty},
		{"decay", decay},
		{"beatFresh", beatFresh},
	}
	for i, x := range order[1:] {
		if before := order[i]; before.time >= x.time {
			t.Errorf("%s is %v, which is not less than %s, %v", before.name, before.time, x.name, x.time)
		}
	}
	if demoteAfter < 2*trustedFor {
		t.Errorf("a circle moves after %v, want at least twice the %v for which calls are remembered", demoteAfter, trustedFor)
	}
	if leastPauseOf*leastPause >= mostPause || mostPause >= trustedFor {
		t.Errorf("an instance that rejects pauses for %v to %v, and is remembered for %v", leastPauseOf*leastPause, mostPause, trustedFor)
	}
	if leastSlowest > slowest || leastSlowest > leastLate || leastLate > unknownLate {
		t.Errorf("the slowest success is remembered from %v on, a success is slow after %v, a call late after %v to %v", leastSlowest, slowest, leastLate, unknownLate)
	}
	if wraps := time.Duration(1<<31) * tick; wraps < 20*24*time.Hour {
		t.Errorf("ages are known up to %v only", wraps)
	}
	if len(stateText) <= int(Dead) || len(KindNames) != int(KindLoadAware)+1 {
		t.Error("a state has no text, or a strategy no name")
	}
}
