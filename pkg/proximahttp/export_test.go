package proximahttp

import (
	"context"
	"net"
	"time"
)

// KeepFor is [Keep] with another age.
func KeepFor(dial Dial, age time.Duration) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return keep(conn, age), nil
	}
}
