package events

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	hostRule    = "want host:port that callers can dial, with a port of 1 to 65535, such as 10.0.0.5:8080"
	subjectRule = "want a NATS subject: tokens of printable ASCII joined by dots, no wildcards, no $ in front, at most 255 bytes"
)

// validateEndpoint checks the address of one protocol. Host is a name or an IP
// address that means the same on every machine: not 0.0.0.0, no IPv6 zone. A
// subject must not be one of the server's own, such as $JS.
func validateEndpoint(protocol, address string) error {
	switch protocol {
	case HTTP, HTTPS, GRPC, TCP:
		if !validHostPort(address) {
			return &FieldError{"endpoints." + protocol, address, hostRule}
		}
	case NATS:
		if !validSubject(address) {
			return &FieldError{"endpoints." + protocol, address, subjectRule}
		}
	default:
		return &FieldError{"endpoints", protocol, "want a protocol of http, https, grpc, tcp or nats"}
	}
	return nil
}

func validHostPort(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port[0] == '0' {
		return false
	}
	if strings.Contains(host, ":") != (address[0] == '[') {
		return false // brackets are for IPv6
	}
	return validHost(host)
}

func validHost(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	if strings.Contains(h, ":") || endsInNumber(h) {
		ip, err := netip.ParseAddr(h)
		ip = ip.Unmap()
		return err == nil && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast()
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(h, "."), ".") {
		if !topology.ValidName(label) || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// endsInNumber reports whether some resolvers would read h as an IPv4 address, even
// an invalid one: 10.0.1 or 256.1.1.1. Container names may be longer numbers.
func endsInNumber(h string) bool {
	h = strings.TrimSuffix(h, ".")
	last := h[strings.LastIndexByte(h, '.')+1:]
	if last == "" || len(last) > 10 {
		return false
	}
	for i := range len(last) {
		if last[i] < '0' || last[i] > '9' {
			return false
		}
	}
	return true
}

func validSubject(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '$' || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == '>' })
}

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
