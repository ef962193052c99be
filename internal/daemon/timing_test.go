package daemon

import (
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestADeadServerIsReplacedBeforeLeasesEnd(t *testing.T) {
	// The interval that runs, then maxPings intervals without an answer, an
	// attempt that hangs, and one that succeeds.
	noticed := (1 + maxPings) * pingInterval
	if noticed > 6*time.Second {
		t.Errorf("a dead server is noticed after %v", noticed)
	}
	replaced := noticed + reconnectWait + reconnectJitter + dialTimeout
	// A heartbeat was sent up to a third of the ttl before.
	if left := events.DefaultTTL * 2 / 3; replaced > left {
		t.Errorf("a dead server is replaced after %v, a lease may end after %v", replaced, left)
	}
}

func TestWaitsFitTogether(t *testing.T) {
	for _, tt := range []struct {
		name        string
		less, other time.Duration
	}{
		{"attempts in one TryConnect", reconnectWait + reconnectJitter, tryWait / 2},
		{"a refused attempt is retried before the ping", reconnectWait + reconnectJitter, pingInterval},
		{"reminders against attempts", 10 * dialTimeout, remindAfter},
	} {
		if tt.less > tt.other {
			t.Errorf("%s: %v is more than %v", tt.name, tt.less, tt.other)
		}
	}
}
