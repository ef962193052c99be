package view

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// What the constants of timing.go promise each other.
func TestTimesFitTogether(t *testing.T) {
	for name, ok := range map[string]bool{
		"an expiry that is alone is believed within the shortest ttl": expiryGrace < time.Second,
		"an instance is back before its expiry is repeated":           Comeback < events.DefaultTTL,
		"an instance that was not stored yet gets time to come back":  maxUnconfirmed > Comeback,
		"suspects of one cause are kept until all could come back":    maxSuspect > 2*events.DefaultTTL+Comeback,
		"a region may be out of reach for longer than an instance":    maxOutOfReach > maxSuspect,
	} {
		if !ok {
			t.Errorf("not so: %s", name)
		}
	}
}
