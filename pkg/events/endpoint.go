package events

import (
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

const (
	maxEndpointName = 15  // as a service of IANA
	maxSocket       = 104 // bytes of a path, as systems with short ones have it

	unixScheme = "unix:"

	hostRule     = "want host:port that callers can dial, with a port of 1 to 65535, such as 10.0.0.5:8080"
	unixRule     = "want host:port, or unix: and an absolute path of at most 104 printable bytes without '.' and '..', such as unix:/run/user.sock"
	subjectRule  = "want a NATS subject: tokens of printable ASCII joined by dots, no wildcards, no $ in front, at most 255 bytes"
	protocolRule = "want a protocol of http, https, grpc, grpcs, tcp, udp or nats, alone or with a name after it, such as http.admin"

	endpointNameRule = "want 1 to 15 of a-z, 0-9 and '-', with a letter or digit at both ends"
	nameRule         = "want a name after the protocol, such as http.admin: 1 to 15 of a-z, 0-9 and '-', with a letter or digit at both ends"

	noHostRule = "want the host of an instance with a unix socket: only callers that are on the same one can use it"
)

// CutEndpoint cuts a name of [Instance.Endpoints] into its protocol and the name that the
// endpoint has beside it, empty for none: http.admin into http and admin.
func CutEndpoint(endpoint string) (protocol, name string) {
	protocol, name, _ = strings.Cut(endpoint, ".")
	return protocol, name
}

// Network is what to dial for an address of an endpoint: "unix" and the path for
// unix:/path, else "tcp" and the address.
func Network(address string) (network, dial string) {
	if path, ok := strings.CutPrefix(address, unixScheme+"/"); ok {
		return "unix", "/" + path
	}
	return "tcp", address
}

// validateEndpoint checks the address of one endpoint. Host is a name or an IP
// address that means the same on every machine: not 0.0.0.0, no IPv6 zone. A
// subject must not be one of the server's own, such as $JS.
func validateEndpoint(endpoint, address string) error {
	protocol, name, named := strings.Cut(endpoint, ".")
	rule := ""
	switch protocol {
	case HTTP, GRPC, TCP:
		switch unix := strings.HasPrefix(address, unixScheme); {
		case unix && !validSocket(address[len(unixScheme):]):
			rule = unixRule
		case !unix && !validHostPort(address):
			rule = hostRule
		}
	case HTTPS, GRPCS, UDP:
		if !validHostPort(address) {
			rule = hostRule
		}
	case NATS:
		if !validSubject(address) {
			rule = subjectRule
		}
	default:
		return &FieldError{"endpoints", endpoint, protocolRule}
	}
	switch {
	case named && !validEndpointName(name):
		return &FieldError{"endpoints", endpoint, nameRule}
	case rule != "":
		return &FieldError{"endpoints." + endpoint, address, rule}
	}
	return nil
}

// ValidateEndpointName checks the name of an endpoint, without the protocol. Field is its
// name in the error.
func ValidateEndpointName(field, s string) error {
	if !validEndpointName(s) {
		return &FieldError{field, s, endpointNameRule}
	}
	return nil
}

func validEndpointName(s string) bool {
	ok := len(s) >= 1 && len(s) <= maxEndpointName && s[0] != '-' && s[len(s)-1] != '-'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-'
	}
	return ok
}

// validSocket checks the path of a unix socket. It has one spelling, so that a directory
// can be checked by its beginning.
func validSocket(p string) bool {
	return len(p) <= maxSocket && len(p) > 1 && p[0] == '/' && path.Clean(p) == p &&
		!strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r >= 0x7f })
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
	if s == "" || len(s) > 255 || s[0] == '$' || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") || strings.HasPrefix(s, unixScheme) {
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
