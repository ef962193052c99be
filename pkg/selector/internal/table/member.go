package table

import (
	"math"
	"time"

	"github.com/proxima-discovery/proxima/pkg/breaker"
	"github.com/proxima-discovery/proxima/pkg/events"
	"github.com/proxima-discovery/proxima/pkg/latency"
)

// Member is one instance in the list of a service, with all that a table needs to
// know of it side by side: building one reads no other memory.
type Member struct {
	*Node
	In                 *events.Instance
	distance           time.Duration // from the selector's own place
	known              certainty     // of distance
	Circle             uint8         // seen from the selector's own place
	protocols, sockets Protocols     // of its endpoints; sockets are those that only the selector's own place can use
	State              State
	Suspect            bool
	Evacuated          bool          // an operator has evacuated its place
	DiscountedFailures int32         // of the failed probes in a row, those that prove nothing
	placed             bool          // something narrower than its region is known
	halfOpen           bool          // its breaker is half-open
	gone               bool          // it is dead, and the registry, which is in reach, does not list it
	breaker            breaker.State // at the last Refresh
	weight             uint16        // as announced
	Born               time.Duration // when it became usable (started, ready, un-evacuated, breaker closed), on the selector's clock
	Subsets            uint64        // that it is in, as bits
}

// NewMember returns the member for an entry of the list. n is what was learned of
// that instance so far, and born when it became usable. stale is whether the registry is
// out of reach.
func NewMember(n *Node, e events.Entry, born time.Duration, stale bool) Member {
	if before := n.Instance.Swap(e.Instance); before != nil && before.Coordinate != e.Coordinate {
		n.Path.SetCoordinate(e.Coordinate)
	}
	m := Member{Node: n, In: e.Instance, Circle: n.Home(), Suspect: e.Suspect, Evacuated: e.Evacuated, weight: weightOf(e.Instance), Born: born}
	m.protocols, m.sockets = n.protocolsOf(e.Instance)
	m.placed = n.Layout().placed(e.Place())
	m.DiscountFailures()
	m.Refresh(stale)
	return m
}

func weightOf(in *events.Instance) uint16 { return uint16(min(max(1, in.Weight), math.MaxUint16)) }

// State is what an instance is good for. Picks use those before NotReady in this
// order: each when no instance of the ones before it is available.
type State uint8

// The states.
const (
	Usable        State = iota
	Suspect             // its lease ended, nothing proves it dead
	LastResort          // it has the weight 0
	Draining            // about to leave, and still working
	Evacuated           // an operator evacuated its place; it still works, as far as is known
	Unreachable         // it does not answer probes, nor has it answered calls lately
	Open                // its breaker: calls fail
	DrainingOpen        // draining, and calls fail
	EvacuatedOpen       // evacuated, and calls fail
	Dead                // suspect, or the registry is out of reach, and it does not answer probes
	NotReady            // never picked, nor is what follows
	OtherProtocol       // no endpoint of the requested protocol
	Outside             // in a circle that calls must not be made to
	Unmatched           // not in the subset; tables do not have it
	Gone                // dead, as are all others, and not in the registry
	numStates
)

// Refresh reads what changes without a new entry: the distance, the breaker and
// failed probes. stale is whether the registry is out of reach.
func (m *Member) Refresh(stale bool) {
	d := m.Node.distance()
	m.distance, m.known = d.Distance, certaintyOf(d)
	state := m.Breaker.State()
	switch {
	case m.breaker == state:
	case state == breaker.Closed:
		m.Born = m.Now() // it works again, and ramps up
	case state == breaker.HalfOpen:
		m.Path.Hasten() // a probe goes before the trial
	}
	m.breaker = state
	m.halfOpen = state == breaker.HalfOpen
	fails := state == breaker.Open
	m.gone = false
	switch {
	case m.In.Status == events.NotReady:
		m.State = NotReady
	case m.provenDead() && (m.Suspect || stale):
		m.State = Dead
		m.gone = m.Suspect && !stale && !m.Answered(Ticks(m.Now()))
	case m.Evacuated && fails:
		m.State = EvacuatedOpen
	case m.Evacuated:
		m.State = Evacuated
	case m.In.Status == events.Draining && fails:
		m.State = DrainingOpen
	case m.In.Status == events.Draining:
		m.State = Draining
	case fails:
		m.State = Open
	case m.unreachable():
		m.State = Unreachable
	case m.In.Weight == events.LastResort:
		m.State = LastResort
	case m.Suspect:
		m.State = Suspect
	default:
		m.State = Usable
	}
}

// deadAfter is how many probes must fail in a row, the last of them since the
// instance is suspect or the view stale: a single packet may get lost, and earlier
// failures may have been those of the caller's own network.
const deadAfter = 2

// DiscountFailures makes the probes that have failed so far prove nothing.
func (m *Member) DiscountFailures() { m.DiscountedFailures = int32(m.Path.Failures()) }

// provenDead reports whether enough probes failed.
func (m *Member) provenDead() bool {
	failed := int32(m.Path.Failures())
	m.DiscountedFailures = min(m.DiscountedFailures, failed)
	return failed >= deadAfter && failed > m.DiscountedFailures
}

// allGone reports whether a service has nothing that can be called: its instances are not
// in the registry, which is in reach, and answer neither probes nor calls.
func allGone(members *Roster) (gone bool) {
	for i := range members.size() {
		switch m := members.at(i); {
		case m.State == NotReady:
		case m.State == Dead && m.gone:
			gone = true
		default:
			return false
		}
	}
	return gone
}

// unreachableAfter is how many probes in a row must fail before an instance is one that
// picks avoid although its breaker is closed, see [Member.unreachable].
const unreachableAfter = 3

// unreachable reports whether probes find no process where the instance should be: the
// next call would find that out too, and take longer. An instance that answers calls is
// reachable, whatever becomes of probes. After calls failed, one failed probe is enough.
func (m *Member) unreachable() bool {
	failures := m.Path.Failures()
	return m.halfOpen && failures > 0 || failures >= unreachableAfter && !m.Answered(Ticks(m.Now()))
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
