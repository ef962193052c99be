package selector

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/selector/internal/table"
)

// What the constants of timing.go promise each other.
func TestTimesFitTogether(t *testing.T) {
	for name, ok := range map[string]bool{
		"changes together cost few tables between two looks":       5*rebuildEvery <= maintainEvery,
		"a pick that waits finds an instance soon after its table": waitEvery <= 2*rebuildEvery,
		"the first pick waits for the list, not for other callers": 10*sharingWait <= firstSnapshot,
		"nor for the policy": 5*policyWait <= firstSnapshot,
		"what is only told is told less often than looked at":    maintainEvery < tellEvery,
		"first retries come before a round":                      backoff < roundWait,
		"a wait for a restart is shorter than an attempt may be": 2*roundWait*6/5 < slowAtLeast,
		"a hang is seen later where nothing is known":            slowAtLeast < slowUnknown,
		"one that is stopped loses a call within 2 s":            slowAtLeast+livesWithin < 2*time.Second,
		"one that lives has longer":                              slowUnknown < slowLiving && slowOfTime < livingOfTime,
		"there is time for a question, and for another attempt":  (1-slowOfTime)/4 < livingOfTime-slowOfTime,
		"a name is watched for longer than it is remembered":     unknownFor < unusedFor,
		"the slowest success outlasts a hang":                    slowestHalves > 10*slowUnknown,
		"the slowest success falls, and slowly":                  slowestFalls < 1 && slowestFalls > 0.999,
		"what was told outlasts the slowest success":             unloadedLasts > slowestHalves,
		"calls are given up as load after they seem to hang":     table.Period > 5*slowLiving,
		"a saved budget is more than one second's":               maxTokens > reserve,
		"an instance ramps up over many looks":                   rampUp > 100*maintainEvery,
	} {
		if !ok {
			t.Errorf("not so: %s", name)
		}
	}
	order := []time.Duration{
		backoff, rebuildEvery, waitEvery, maintainEvery, sharingWait, roundWait, livesWithin, policyWait, slowAtLeast, livesEvery, tellEvery, unknownFor, firstSnapshot,
		slowUnknown, rampUp, slowLiving, unusedFor, invalidEvery, slowestHalves, unloadedLasts,
	}
	for i, d := range order[1:] {
		if d < order[i] {
			t.Errorf("%v stands behind %v", d, order[i])
		}
	}
}
