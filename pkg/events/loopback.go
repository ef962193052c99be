package events

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Loopback reports whether a host is, wherever the name is read, the machine of the reader:
// localhost, or an IP address that is loopback or unspecified. Other names are not resolved.
func Loopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	switch host {
	case "", "localhost",
		"localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback": // as /etc/hosts of many systems has them
		return true
	}
	if strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	ip = ip.Unmap()
	return err == nil && (ip.IsLoopback() || ip.IsUnspecified())
}

// LoopbackEndpoint returns an endpoint with a [Loopback] address, which only callers on the
// machine of the instance reach, and false if there is none. Subjects are not addresses.
func (in *Instance) LoopbackEndpoint() (protocol, address string, found bool) {
	for _, protocol := range slices.Sorted(maps.Keys(in.Endpoints)) {
		address := in.Endpoints[protocol]
		host, _, err := net.SplitHostPort(address)
		if protocol != NATS && err == nil && Loopback(host) {
			return protocol, address, true
		}
	}
	return "", "", false
}
