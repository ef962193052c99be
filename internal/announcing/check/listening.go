package check

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// startPatience is how long [Listening] waits for a command.
const startPatience = 3 * time.Second

// Listening returns the check of a command that was just started: it passes when
// the first host:port of the endpoints accepts a connection, 3 s after the first
// call at the latest, and then always. It returns nil when no endpoint has a
// host:port.
func Listening(endpoints map[string]string) Func {
	for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP} {
		if address, ok := endpoints[protocol]; ok {
			return listening(TCP(address))
		}
	}
	return nil
}

// listening passes always, once ask has passed or startPatience is over.
func listening(ask Func) Func {
	var since time.Time
	passed := false
	return func(ctx context.Context) error {
		if passed {
			return nil
		}
		if since.IsZero() {
			since = time.Now()
		}
		err := ask(ctx)
		if passed = err == nil || time.Since(since) >= startPatience; passed {
			return nil
		}
		return err
	}
}
