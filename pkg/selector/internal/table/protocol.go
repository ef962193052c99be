package table

import (
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Protocols is a set of protocols: those that an instance has endpoints of without a name,
// or the one that is requested. An endpoint with a name, such as http.admin, is requested as
// a protocol of its own. The empty set requests any.
type Protocols uint32

const (
	protocolHTTP Protocols = 1 << iota
	protocolHTTPS
	protocolGRPC
	protocolGRPCS
	protocolTCP
	protocolUDP
	protocolNATS
	protocolOther  // requested; no instance has it
	protocolSocket // of an instance: one of its endpoints is a socket
	protocolNamed  // an endpoint with a name: of an instance any, when requested the first one of a service

	// NumProtocols is how many requests differ: more endpoints with names are not told
	// from one that no instance has.
	NumProtocols = 32
)

var protocolNames = [...]string{events.HTTP, events.HTTPS, events.GRPC, events.GRPCS, events.TCP, events.UDP, events.NATS}

// protocolOf is the set of one protocol, empty for an empty name.
func protocolOf(protocol string) Protocols {
	switch protocol {
	case "":
		return 0
	case events.HTTP:
		return protocolHTTP
	case events.HTTPS:
		return protocolHTTPS
	case events.GRPC:
		return protocolGRPC
	case events.GRPCS:
		return protocolGRPCS
	case events.TCP:
		return protocolTCP
	case events.UDP:
		return protocolUDP
	case events.NATS:
		return protocolNATS
	}
	return protocolOther
}

// ProtocolOf is the set of one protocol that is known to all callers, empty for an empty
// name.
func ProtocolOf(protocol string) Protocols { return protocolOf(protocol) }

// Name is the name of the protocol of a set of one that is known to all callers, empty for
// others and for the empty set.
func (p Protocols) Name() string {
	if i := p.Index(); i < len(protocolNames) && p == 1<<i {
		return protocolNames[i]
	}
	return ""
}

// Index is the number of a set of one, below [NumProtocols].
func (p Protocols) Index() int { return bits.TrailingZeros32(uint32(p)) }

// endpoints are the endpoints with names that were requested of a service, in the order of
// their protocols.
type endpoints struct {
	list atomic.Pointer[[]string] // replaced, never changed
	mu   sync.Mutex               // guards writing
}

// known returns the names, which must not be changed.
func (e *endpoints) known() []string {
	if list := e.list.Load(); list != nil {
		return *list
	}
	return nil
}

// Requested is the set of one protocol, or of an endpoint with a name, that is requested of
// the service.
func (s *Shared) Requested(protocol string) Protocols {
	p := protocolOf(protocol)
	if p != protocolOther || !strings.Contains(protocol, ".") {
		return p
	}
	if i := slices.Index(s.endpoints.known(), protocol); i >= 0 {
		return protocolNamed << i
	}
	s.endpoints.mu.Lock()
	defer s.endpoints.mu.Unlock()
	known := s.endpoints.known()
	i := slices.Index(known, protocol)
	if i < 0 {
		if i = len(known); i >= NumProtocols-protocolNamed.Index() {
			return protocolOther // names come from outside, and must not cost memory for ever
		}
		known = append(slices.Clone(known), protocol)
		s.endpoints.list.Store(&known)
	}
	return protocolNamed << i
}

// endpointOf is the endpoint with a name that a set of one stands for, empty for others.
func (s *Shared) endpointOf(p Protocols) string {
	if i := p.Index() - protocolNamed.Index(); i >= 0 && i < len(s.endpoints.known()) {
		return s.endpoints.known()[i]
	}
	return ""
}

// protocolsOf are the protocols of an instance's endpoints: those that any caller can use,
// and those that are sockets this one can use.
func (s *Shared) protocolsOf(in *events.Instance) (all, sockets Protocols) {
	for endpoint, address := range in.Endpoints {
		p := protocolOf(endpoint)
		if p == protocolOther {
			p = protocolNamed
		}
		switch network, path := events.Network(address); network {
		case "tcp":
			all |= p
		default:
			all |= protocolSocket
			if s.reaches(in, path) {
				sockets |= p
			}
		}
	}
	return all, sockets
}

// reaches reports whether the selector's own place can use the socket of an instance: it is
// on the same host, and in the directory that is allowed.
func (s *Shared) reaches(in *events.Instance, path string) bool {
	rest, below := strings.CutPrefix(path, s.Sockets)
	return below && s.Sockets != "" && strings.HasPrefix(rest, "/") && s.Origin.Host != "" && in.Location.Host == s.Origin.Host
}

// offers reports whether a member has an endpoint that a lens is for.
func (l *lens) offers(m *Member) bool {
	all := m.protocols
	if l.Home {
		all |= m.sockets
	}
	switch {
	case l.endpoint != "":
		address, has := m.In.Endpoints[l.endpoint]
		if !has || all&protocolNamed == 0 {
			return false
		}
		network, path := events.Network(address)
		return network != "unix" || l.Home && l.reaches(m.In, path)
	case l.Protocols != 0:
		return all&l.Protocols != 0
	}
	return all != protocolSocket
}
