package events

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Status says whether an instance wants calls.
type Status string

const (
	// Up wants calls.
	Up Status = "up"
	// Draining finishes what it has and is about to leave: it gets no new
	// calls while anybody else can take them.
	Draining Status = "draining"
	// NotReady is alive and fails its own check: it gets no calls.
	NotReady Status = "not_ready"
)

// The protocols an endpoint may have. The address is host:port, for [NATS] a
// subject.
const (
	HTTP  = "http"
	HTTPS = "https"
	GRPC  = "grpc"
	TCP   = "tcp"
	NATS  = "nats"
)

const (
	// DefaultTTL is the lease of an instance that names none.
	DefaultTTL = 15 * time.Second
	// DefaultWeight is the weight of an instance that names none.
	DefaultWeight = 100
	// MaxSize is the largest encoded instance, in bytes.
	MaxSize = 64 << 10
)

// Instance is one running copy of a service, as it announces itself. Its JSON
// is the registry's record. Instances are shared between goroutines and never
// changed once read.
type Instance struct {
	// ID names the instance within its service: [A-Za-z0-9_-], 1 to 63 long.
	ID string
	// Service is a DNS label: lower-case letters, digits and '-'.
	Service string
	// Incarnation tells two lives of the same ID apart. A new process is a
	// new incarnation.
	Incarnation string
	// Endpoints maps a protocol ([HTTP], [HTTPS], [GRPC], [TCP], [NATS]) to
	// an address: host:port, or a subject for [NATS]. At least one.
	Endpoints map[string]string
	// Location is where it runs; unknown fields are empty. Region and zone
	// are names as ID is, rack and host short printable text without '/'.
	Location topology.Location
	// Status is whether it wants calls. Default [Up].
	Status Status
	// Version is the service's own, for people and for rollouts.
	Version string
	// Weight is its share of calls, relative to the others': 1 to 10000.
	// Default [DefaultWeight].
	Weight int
	// Metadata is free for its users; levels of [topology.Levels] may name a key.
	Metadata map[string]string
	// Coordinate is its place in the network's coordinate space, if known.
	Coordinate *Coordinate
	// Started is when this incarnation began, or zero.
	Started time.Time
	// TTL is its lease, whole seconds: without a renewal it expires after
	// that long. Default [DefaultTTL].
	TTL time.Duration
}

// Coordinate is a point of a Vivaldi coordinate space with height; distances
// in it predict round trips. Units are seconds, as in hashicorp/serf.
type Coordinate struct {
	Vec        [8]float64 `json:"vec"`
	Error      float64    `json:"error"`
	Adjustment float64    `json:"adjustment"`
	Height     float64    `json:"height"`
}

// Key is where the instance is kept.
func (in *Instance) Key() Key {
	k := Key{in.Service, in.Location.Region, in.Location.Zone, in.ID}
	k.normalize()
	return k
}

// Place is its location with its metadata as labels.
func (in *Instance) Place() topology.Place {
	return topology.Place{Location: in.Location, Labels: in.Metadata}
}

// Decode reads and validates a record. Fields it does not know are ignored,
// defaults are filled in for what is absent, null or empty, but not for a
// weight or a ttl of zero. Nothing of data is kept. The error says what is
// wrong and never quotes more than a little of the data; it is a *[FieldError]
// when the JSON is sound.
func Decode(data []byte) (*Instance, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("events: an instance of %d bytes, want at most %d", len(data), MaxSize)
	}
	in := new(Instance)
	if err := decode(data, in); err != nil {
		return nil, err
	}
	in.setDefaults()
	if err := in.Validate(); err != nil {
		return nil, err
	}
	return in, nil
}

// Encode validates a copy of in with its defaults filled in and writes it.
func Encode(in Instance) ([]byte, error) {
	in.setDefaults()
	if err := in.Validate(); err != nil {
		return nil, err
	}
	data, err := in.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("events: encode instance %s: %w", in.ID, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("events: instance %s takes %d bytes, want at most %d: shorten its metadata", in.ID, len(data), MaxSize)
	}
	return data, nil
}

func (in *Instance) setDefaults() {
	if in.Status == "" {
		in.Status = Up
	}
	if in.Weight == 0 {
		in.Weight = DefaultWeight
	}
	if in.TTL == 0 {
		in.TTL = DefaultTTL
	}
	in.Location.Normalize()
	in.Started = in.Started.UTC()
}

// Addresses are the endpoints as people write them: "grpc=10.0.0.5:9090,
// http=10.0.0.5:8080".
func (in *Instance) Addresses() string {
	var all []string
	for _, protocol := range slices.Sorted(maps.Keys(in.Endpoints)) {
		all = append(all, protocol+"="+in.Endpoints[protocol])
	}
	return strings.Join(all, ", ")
}
