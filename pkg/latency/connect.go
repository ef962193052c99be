package latency

import (
	"context"
	"time"
)

// connect opens a TCP connection to the address, closes it, and returns how
// long the opening took.
func (o *Options) connect(ctx context.Context, address string) (time.Duration, error) {
	return Connect(o.Dial, address)(ctx)
}
