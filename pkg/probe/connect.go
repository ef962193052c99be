package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Connect measures how long it takes to open a TCP connection to an address
// (host:port), which is then closed without a byte. With a nil dial, a host
// name is resolved before the clock starts, so that the name server's distance
// is not taken for the instance's; of several addresses the first that answers
// is measured, and each gets its share of the time.
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
		// Keep-alive would be set while the clock runs, for nothing.
		dialer := net.Dialer{KeepAlive: -1}
		var rtt time.Duration
		for i, a := range addresses {
			// One that does not answer leaves the others their share of the time.
			dialer.Timeout = remaining(ctx) / time.Duration(len(addresses)-i)
			if rtt, err = timed(ctx, dialer.DialContext, a); err == nil {
				break
			}
		}
		return rtt, err
	}
}

// remaining is the time that ctx, which has a deadline, leaves: at least 1 ns.
func remaining(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return max(time.Until(deadline), 1)
}

// timed dials with the clock running from before the first thing it does.
func timed(ctx context.Context, dial Dial, address string) (time.Duration, error) {
	start := time.Now()
	conn, err := dial(ctx, "tcp", address)
	rtt := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("probe: %s: %w", address, err)
	}
	// It was never written to, so there is nothing that could be lost.
	_ = conn.Close()
	return rtt, nil
}

// resolve turns the host of an address into IP addresses, at least one.
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
