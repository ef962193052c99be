package documents

import (
	"testing"
	"time"
)

// What the constants of timing.go promise each other.
func TestTimesFitTogether(t *testing.T) {
	for name, ok := range map[string]bool{
		"a look that follows a change comes before what was heard ends": 5*lookDelay+unconfirmed/2 < unconfirmed,
		"what another tool wrote is seen within 25 s":                   lookEvery*11/10 < 25*time.Second,
		"a look that failed is repeated sooner than others":             retryEvery < lookEvery,
		"a document that is written at each look is logged less often":  logAgain > lookEvery,
	} {
		if !ok {
			t.Errorf("not so: %s", name)
		}
	}
}
