package check

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Listening returns the check of a command that was just started: it passes when
// the first host:port of the endpoints accepts a connection, after the start period at
// the latest, and then always. Endpoints without a name come before those with one, and
// unix sockets last. It returns nil when there is nothing to connect to.
func Listening(endpoints map[string]string, startPeriod time.Duration) Func {
	in := events.Instance{Endpoints: endpoints}
	for _, protocol := range []string{events.HTTP, events.HTTPS, events.GRPC, events.GRPCS, events.TCP} {
		if address := in.FirstEndpoint(protocol); address != "" {
			return listening(TCP(address), startPeriod)
		}
	}
	for _, endpoint := range slices.Sorted(maps.Keys(endpoints)) {
		if network, path := events.Network(endpoints[endpoint]); network == "unix" {
			return listening(bounded(endpoints[endpoint], askListener(network, path)), startPeriod)
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
