package forwarding

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Trust is the networks of proxies in front of this one, whose headers about the caller
// are believed. The zero value trusts none.
type Trust []netip.Prefix

// Includes reports whether a peer, host:port, is in one of the networks.
func (t Trust) Includes(peer string) bool {
	if len(t) == 0 {
		return false
	}
	a, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	addr := a.Addr().WithZone("").Unmap()
	return slices.ContainsFunc(t, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// Local reports whether a request comes from this machine, also if it came by way of a proxy
// in one of the networks.
func (t Trust) Local(req *http.Request) bool {
	if !loopback(hostOf(req.RemoteAddr)) {
		return false
	}
	if !t.Includes(req.RemoteAddr) {
		return true
	}
	for _, line := range req.Header.Values("X-Forwarded-For") {
		for client := range strings.SplitSeq(line, ",") {
			if !loopback(hostOf(strings.TrimSpace(client))) {
				return false
			}
		}
	}
	for _, line := range req.Header.Values("Forwarded") {
		for pair := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r == ';' }) {
			name, client, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if strings.EqualFold(name, "for") && !loopback(hostOf(strings.Trim(client, `"`))) { // a hidden name is that of another machine
				return false
			}
		}
	}
	return true
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}

// ParseNetwork reads a network with the length of its prefix, such as 10.0.0.0/8 or
// 10.0.0.5/32. An IPv4 network in IPv6 notation is the same as in IPv4 notation.
func ParseNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
			return netip.Prefix{}, fmt.Errorf("network %q has no prefix length: want %s/%d for this one address, or a network such as 10.0.0.0/8", s, a, a.BitLen())
		}
		return netip.Prefix{}, fmt.Errorf("network %q: want an address and a prefix length, such as 10.0.0.0/8 or fd00::/8", s)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// hostOf is the host of host:port, the whole text if there is no port.
func hostOf(s string) string {
	if h, _, err := net.SplitHostPort(s); err == nil {
		return h
	}
	return s
}
