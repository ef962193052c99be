// Package dialer opens TCP connections to names with several addresses.
package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// stagger is how long an address may take alone before the next one is tried beside it:
// the Connection Attempt Delay that RFC 8305 recommends.
const stagger = 250 * time.Millisecond

// Dialer opens TCP connections. It tries all addresses of a name, IPv6 and IPv4 in turns,
// each beside those before if they take long, and takes the first connection (RFC 8305).
// [net.Dialer] does so for one address of each family only. Names are resolved for each
// connection. It is safe for concurrent use.
type Dialer struct {
	// Timeout of a connection, with the resolution of its name. It must be set.
	Timeout time.Duration
	// Control is called with each address before it is connected to, as that of
	// [net.Dialer]. Nil: all addresses are allowed.
	Control func(network, address string, c syscall.RawConn) error
	// Lookup resolves names. Nil: the resolver of package net.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// DialContext is [net.Dialer.DialContext] for TCP.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	one := &net.Dialer{KeepAlive: 15 * time.Second, Control: d.Control}
	host, port, err := net.SplitHostPort(address)
	if _, notIP := netip.ParseAddr(host); err != nil || notIP == nil || network != "tcp" || host == "" {
		return one.DialContext(ctx, network, address)
	}
	addrs, err := d.lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("dial %s: %w", address, &net.DNSError{Err: "no addresses", Name: host, IsNotFound: true})
	}
	return d.race(ctx, one, inTurns(addrs), port)
}

func (d *Dialer) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if d.Lookup != nil {
		return d.Lookup(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// inTurns orders addresses so that families take turns, beginning with that of the first.
func inTurns(addrs []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for i, a := range addrs {
		if addrs[i] = a.Unmap(); addrs[i].Is4() == addrs[0].Is4() {
			first = append(first, addrs[i])
		} else {
			second = append(second, addrs[i])
		}
	}
	turns := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			turns = append(turns, first[i])
		}
		if i < len(second) {
			turns = append(turns, second[i])
		}
	}
	return turns
}

type result struct {
	conn net.Conn
	err  error
}

// race connects to one address after the other, and returns the first connection. Those
// that are late are closed.
func (d *Dialer) race(ctx context.Context, one *net.Dialer, addrs []netip.Addr, port string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result)
	running := 0
	defer func() {
		cancel()
		if running > 0 {
			go func() {
				for range running {
					if late := <-results; late.conn != nil {
						_ = late.conn.Close()
					}
				}
			}()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for len(addrs) > 0 || running > 0 {
		var next <-chan time.Time
		if len(addrs) > 0 {
			next = timer.C
		}
		select {
		case <-next:
			address := net.JoinHostPort(addrs[0].String(), port)
			addrs = addrs[1:]
			running++
			go func() {
				conn, err := one.DialContext(ctx, "tcp", address)
				results <- result{conn, err}
			}()
			timer.Reset(stagger)
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			timer.Reset(0) // the next one need not wait
		}
	}
	return nil, errors.Join(errs...)
}
