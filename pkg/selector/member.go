package selector

import (
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// member is one instance in the list of a service, with all that a table needs
// to know of it side by side: making one reads no other memory.
type member struct {
	*node
	in        *events.Instance
	distance  time.Duration // from the selector's own place
	known     certainty     // how well
	circle    uint8         // seen from there
	protocols protocols
	condition condition
	suspect   bool
	evacuated bool          // an operator has ordered its place to be left
	excused   int32         // probes in a row that had failed when it came into doubt
	trial     bool          // its breaker is half-open
	weight    uint16        // as announced
	born      time.Duration // what its age counts from, on the selector's clock
}

// newMember is an entry of the list of a service, with what was learned of it so
// far. Born is what its age counts from.
func newMember(n *node, e events.Entry, born time.Duration, stale bool) member {
	if before := n.instance.Swap(e.Instance); before != nil && before.Coordinate != e.Coordinate {
		n.path.Place(e.Coordinate)
	}
	n.setWeight(e.Weight)
	m := member{node: n, in: e.Instance, circle: n.home, suspect: e.Suspect, evacuated: e.Evacuated, protocols: protocolsOf(e.Instance), weight: weightOf(e.Instance), born: born}
	m.excuse()
	m.look(stale)
	return m
}

// condition is what an instance is good for. Those before notReady are used in
// this order: each when nothing of the ones before it can be had.
type condition uint8

const (
	usable    condition = iota
	suspect             // its lease is gone, nothing proves it dead
	draining            // about to leave, and still working
	evacuated           // its place is to be left, and it still works, as far as is known
	open                // its breaker: calls fail
	leaving             // draining, and calls fail
	abandoned           // evacuated, and calls fail
	dead                // suspect, or the registry is out of reach, and probes find nobody there
	notReady            // never picked, as what follows
	foreign             // no endpoint of the wanted protocol
	conditions
)

// look sets what may have changed since the member was last looked at. Stale
// says that the registry is out of reach.
func (m *member) look(stale bool) {
	d := m.node.distance()
	m.distance, m.known = d.Distance, certaintyOf(d)
	state := m.breaker.State()
	m.trial = state == breaker.HalfOpen
	fails := state == breaker.Open
	switch {
	case m.in.Status == events.NotReady:
		m.condition = notReady
	case m.missed() && (m.suspect || stale):
		m.condition = dead
	case m.evacuated && fails:
		m.condition = abandoned
	case m.evacuated:
		m.condition = evacuated
	case m.in.Status == events.Draining && fails:
		m.condition = leaving
	case m.in.Status == events.Draining:
		m.condition = draining
	case fails:
		m.condition = open
	case m.suspect:
		m.condition = suspect
	default:
		m.condition = usable
	}
}

// proof is how many probes must fail in a row, one of them since the instance is
// suspect or the view stale: a single packet may get lost, and what failed before
// may have been our own network.
const proof = 2

// excuse makes the probes that have failed so far prove nothing.
func (m *member) excuse() { m.excused = int32(m.path.Failures()) }

// missed says whether probes prove that nobody is there.
func (m *member) missed() bool {
	failed := int32(m.path.Failures())
	m.excused = min(m.excused, failed)
	return failed >= proof && failed > m.excused
}

// certainty is how well a distance is known.
type certainty uint8

const (
	assumed certainty = iota // from the circle alone
	predicted
	measured // by this caller, or by others in its zone
)

func certaintyOf(d latency.Estimate) certainty {
	switch {
	case d.Measured():
		return measured
	case d.Source == latency.SourcePredicted:
		return predicted
	}
	return assumed
}

// protocols is a set of the protocols that an instance has endpoints of. As a
// wish, the empty set is any.
type protocols uint8

const (
	protocolHTTP protocols = 1 << iota
	protocolHTTPS
	protocolGRPC
	protocolTCP
	protocolNATS
	protocolOther // wished for by name, and nobody has it
)

func protocolsOf(in *events.Instance) protocols {
	var set protocols
	for p := range in.Endpoints {
		set |= wish(p) &^ protocolOther
	}
	return set
}

func wish(protocol string) protocols {
	switch protocol {
	case "":
		return 0
	case events.HTTP:
		return protocolHTTP
	case events.HTTPS:
		return protocolHTTPS
	case events.GRPC:
		return protocolGRPC
	case events.TCP:
		return protocolTCP
	case events.NATS:
		return protocolNATS
	default:
		return protocolOther
	}
}
