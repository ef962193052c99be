package check

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Listening returns the check of a command that was just started: it passes when
// the first host:port of the endpoints accepts a connection, after the start period at
// the latest, and then always. It returns nil when no endpoint has a host:port.
func Listening(endpoints map[string]string, startPeriod time.Duration) Func {
	for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP} {
		if address, ok := endpoints[protocol]; ok {
			return listening(TCP(address), startPeriod)
		}
	}
	return nil
}

// listening passes always, once ask has passed or the start period is over.
func listening(ask Func, startPeriod time.Duration) Func {
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
		if passed = err == nil || time.Since(since) >= startPeriod; passed {
			return nil
		}
		return err
	}
}
