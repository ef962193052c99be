package selector

import (
	"context"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Source lists the instances of services. *kv.Registry is one. Watch calls
// apply with a complete snapshot after every change, one call at a time, until
// ctx ends.
type Source interface {
	Watch(ctx context.Context, service string, apply func(events.Snapshot)) error
}

// Clock is what a [Source] may be besides: one that knows the time by which
// instances say when they started. *kv.Registry is one.
type Clock interface{ Now() time.Time }

// wallClock is our own clock at its start, and no jump of it later.
type wallClock struct{ start time.Time }

func (c wallClock) Now() time.Time { return c.start.Add(time.Since(c.start)) }
