package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Connect measures how long it takes to open a TCP connection to an address
// (host:port), and closes it without a byte. With a nil dial, a host name is
// resolved before the clock starts, so that the name server's time is not part of
// the measurement. Of several addresses the first that answers is measured, and
// each gets an equal share of the time.
func Connect(dial Dial, address string) Func {
	return func(ctx context.Context) (time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, MaxRTT)
		defer cancel()
		if dial != nil {
			return timed(ctx, dial, address)
		}
		addresses, err := resolve(ctx, address)
		if err != nil {
			return 0, fmt.Errorf("probe: resolve %s: %w", address, err)
		}
		// Setting keep-alive would take time while the clock runs.
		dialer := net.Dialer{KeepAlive: -1}
		var rtt time.Duration
		for i, a := range addresses {
			// An address that does not answer leaves the others their share.
			dialer.Timeout = remaining(ctx) / time.Duration(len(addresses)-i)
			if rtt, err = timed(ctx, dialer.DialContext, a); err == nil {
				break
			}
		}
		return rtt, err
	}
}

// remaining is the time until the deadline of ctx, at least 1 ns.
func remaining(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return max(time.Until(deadline), 1)
}

// timed dials and closes the connection, and returns how long dialling took.
func timed(ctx context.Context, dial Dial, address string) (time.Duration, error) {
	start := time.Now()
	conn, err := dial(ctx, "tcp", address)
	rtt := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("probe: %s: %w", address, err)
	}
	// Nothing was written to it, so nothing can be lost.
	_ = conn.Close()
	return rtt, nil
}

// resolve returns the addresses with the IP addresses of the host, at least one.
func resolve(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{address}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addresses := make([]string, len(ips))
	for i, ip := range ips {
		addresses[i] = net.JoinHostPort(ip.Unmap().String(), port)
	}
	return addresses, nil
}
