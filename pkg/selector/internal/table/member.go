package table

import (
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// member is one instance in the list of a service, with all that a table needs
// to know of it side by side: making one reads no other memory.
type Member struct {
	*Node
	In        *events.Instance
	distance  time.Duration // from the selector's own place
	known     certainty     // how well
	Circle    uint8         // seen from there
	Protocols Protocols
	State     State
	Suspect   bool
	Evacuated bool          // an operator has ordered its place to be left
	Excused   int32         // probes in a row that had failed when it came into doubt
	trial     bool          // its breaker is half-open
	weight    uint16        // as announced
	Born      time.Duration // what its age counts from, on the selector's clock
}

// newMember is an entry of the list of a service, with what was learned of it so
// far. Born is what its age counts from.
func NewMember(n *Node, e events.Entry, Born time.Duration, stale bool) Member {
	if before := n.Instance.Swap(e.Instance); before != nil && before.Coordinate != e.Coordinate {
		n.Path.SetCoordinate(e.Coordinate)
	}
	n.setWeight(e.Weight)
	m := Member{Node: n, In: e.Instance, Circle: n.Home, Suspect: e.Suspect, Evacuated: e.Evacuated, Protocols: protocolsOf(e.Instance), weight: weightOf(e.Instance), Born: Born}
	m.Excuse()
	m.Look(stale)
	return m
}

// condition is what an instance is good for. Those before notReady are used in
// this order: each when nothing of the ones before it can be had.
type State uint8

const (
	Usable    State = iota
	Suspect         // its lease is gone, nothing proves it dead
	Draining        // about to leave, and still working
	Evacuated       // its place is to be left, and it still works, as far as is known
	Open            // its breaker: calls fail
	Leaving         // draining, and calls fail
	Abandoned       // evacuated, and calls fail
	Dead            // suspect, or the registry is out of reach, and probes find nobody there
	NotReady        // never picked, as what follows
	Foreign         // no endpoint of the wanted protocol
	conditions
)

// look sets what may have changed since the member was last looked at. Stale
// says that the registry is out of reach.
func (m *Member) Look(stale bool) {
	d := m.Node.distance()
	m.distance, m.known = d.Distance, certaintyOf(d)
	state := m.Breaker.State()
	m.trial = state == breaker.HalfOpen
	fails := state == breaker.Open
	switch {
	case m.In.Status == events.NotReady:
		m.State = NotReady
	case m.missed() && (m.Suspect || stale):
		m.State = Dead
	case m.Evacuated && fails:
		m.State = Abandoned
	case m.Evacuated:
		m.State = Evacuated
	case m.In.Status == events.Draining && fails:
		m.State = Leaving
	case m.In.Status == events.Draining:
		m.State = Draining
	case fails:
		m.State = Open
	case m.Suspect:
		m.State = Suspect
	default:
		m.State = Usable
	}
}

// proof is how many probes must fail in a row, one of them since the instance is
// suspect or the view stale: a single packet may get lost, and what failed before
// may have been our own network.
const proof = 2

// excuse makes the probes that have failed so far prove nothing.
func (m *Member) Excuse() { m.Excused = int32(m.Path.Failures()) }

// missed says whether probes prove that nobody is there.
func (m *Member) missed() bool {
	failed := int32(m.Path.Failures())
	m.Excused = min(m.Excused, failed)
	return failed >= proof && failed > m.Excused
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
type Protocols uint8

const (
	protocolHTTP Protocols = 1 << iota
	protocolHTTPS
	protocolGRPC
	protocolTCP
	protocolNATS
	protocolOther // wished for by name, and nobody has it
)

func protocolsOf(in *events.Instance) Protocols {
	var set Protocols
	for p := range in.Endpoints {
		set |= ProtocolOf(p) &^ protocolOther
	}
	return set
}

func ProtocolOf(protocol string) Protocols {
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
