package check

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// startPatience is how long a command may take to listen.
const startPatience = 3 * time.Second

// Listening is for a command that was just started: it passes for good when the
// first host:port of the endpoints has accepted a connection, after 3 s at the
// latest. It says nothing about what the command is like later. It is nil when
// there is no host:port.
func Listening(endpoints map[string]string) Func {
	for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.TCP} {
		if address, ok := endpoints[protocol]; ok {
			return listening(TCP(address))
		}
	}
	return nil
}

// listening passes for good when ask has passed once, or has failed for too long.
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
