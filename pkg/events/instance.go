package events

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/proxima-discovery/proxima/pkg/topology"
)

// Status is whether an instance wants calls.
type Status string

const (
	// Up is for an instance that wants calls.
	Up Status = "up"
	// Draining is for an instance that finishes its calls and then leaves. It
	// gets no new calls while another instance can take them.
	Draining Status = "draining"
	// NotReady is for an instance that is alive and fails its own check. It gets
	// no calls.
	NotReady Status = "not_ready"
)

// The protocols of endpoints. The address is host:port, for [NATS] a subject. For [HTTP],
// [GRPC] and [TCP] it may be a unix socket, unix:/path, see [Instance.Endpoints].
const (
	HTTP  = "http"
	HTTPS = "https"
	GRPC  = "grpc"
	GRPCS = "grpcs" // gRPC with TLS
	TCP   = "tcp"
	UDP   = "udp" // listed for callers that ask for it, never probed
	NATS  = "nats"
)

const (
	// DefaultTTL is the TTL of an instance without one.
	DefaultTTL = 15 * time.Second
	// DefaultWeight is the weight of an instance without one.
	DefaultWeight = 100
	// LastResort is the weight of an instance that is called only when no other one can
	// be. It is 0 in JSON.
	LastResort = -1
	// MaxSize is the largest encoded instance, in bytes.
	MaxSize = 64 << 10
)

// Instance is one running copy of a service, as it announces itself. Its JSON is the
// registry's record. Instances that were read are shared between goroutines: do not
// change them.
//
// To announce an instance, set ID, Service and Endpoints. kv.Announce fills in
// Incarnation, Started and defaults. It also fills in Location, from PROXIMA_REGION,
// PROXIMA_ZONE and the other variables of topology.Environment, if none of its fields
// is set.
type Instance struct {
	// ID names the instance: [A-Za-z0-9_-], 1 to 63 long. It must be unique within the
	// service; the registry enforces that per zone.
	ID string
	// Service is a DNS label (lower-case letters, digits and '-'), or several labels
	// joined by dots, such as payments.user or grpc.health.v1.Health, which may have
	// upper-case letters and '_', see [ValidateService].
	Service string
	// Incarnation distinguishes two processes that announce the same ID, one after
	// the other.
	Incarnation string
	// Endpoints maps a protocol ([HTTP], [HTTPS], [GRPC], [GRPCS], [TCP], [UDP], [NATS])
	// to an address: host:port that callers can dial, or a subject for [NATS]. There
	// must be one. Further endpoints of a protocol have a name after it: http.admin.
	//
	// The address unix:/path is a socket on the host of the instance, which Location
	// must name. Only callers whose location has the same host can use it, if their
	// program allows the directory.
	Endpoints map[string]string
	// Location is where it runs; unknown fields are empty. Region and zone are
	// names like ID, rack and host are printable text without '/'.
	Location topology.Location
	// Status is whether the instance wants calls. Default [Up].
	Status Status
	// Version of the service. Callers may choose by it, see package subset: then it is best a
	// semantic version.
	Version string
	// Weight is the instance's share of calls relative to the other instances', 1
	// to 10000, or [LastResort]. Default [DefaultWeight]. The strategies round_robin and
	// nearest ignore it.
	Weight int
	// Metadata is free to use. A level of [topology.Levels] may be one of its keys.
	Metadata map[string]string
	// Coordinate is its network coordinate, nil if unknown.
	Coordinate *Coordinate
	// Started is when this incarnation started, or zero.
	Started time.Time
	// TTL is its lease in whole seconds, 1s to 1h: without a renewal the instance
	// expires after that time. Default [DefaultTTL].
	TTL time.Duration
}

// Coordinate is a point of a Vivaldi coordinate space with height. Distances between
// coordinates predict round trips. The unit is a second, as in hashicorp/serf.
type Coordinate struct {
	Vec        [8]float64 `json:"vec"`
	Error      float64    `json:"error"`
	Adjustment float64    `json:"adjustment"`
	Height     float64    `json:"height"`
}

// Key is the instance's place in keys and subjects.
func (in *Instance) Key() Key {
	k := Key{in.Service, in.Location.Region, in.Location.Zone, in.ID}
	k.normalize()
	return k
}

// Place is the instance's location, with its metadata as labels.
func (in *Instance) Place() topology.Place {
	return topology.Place{Location: in.Location, Labels: in.Metadata}
}

// Decode reads and validates a record. It ignores unknown fields, and fills in
// defaults for fields that are absent, null or empty; a ttl of zero is an error. It
// keeps nothing of data. The error quotes at most 80 bytes of a field; it is a
// *[FieldError] when the JSON is valid.
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

// Addresses are the endpoints as text: "grpc=10.0.0.5:9090, http=10.0.0.5:8080".
func (in *Instance) Addresses() string {
	var all []string
	for _, endpoint := range slices.Sorted(maps.Keys(in.Endpoints)) {
		all = append(all, endpoint+"="+in.Endpoints[endpoint])
	}
	return strings.Join(all, ", ")
}

// LoopbackEndpoint returns an endpoint with a [Loopback] address, which only callers on the
// machine of the instance reach, and false if there is none. Subjects are not addresses, and
// unix sockets are meant so.
func (in *Instance) LoopbackEndpoint() (endpoint, address string, found bool) {
	for _, endpoint := range slices.Sorted(maps.Keys(in.Endpoints)) {
		address := in.Endpoints[endpoint]
		host, _, err := net.SplitHostPort(address)
		if protocol, _ := CutEndpoint(endpoint); protocol != NATS && err == nil && Loopback(host) {
			return endpoint, address, true
		}
	}
	return "", "", false
}

// FirstEndpoint returns the address of the endpoint of a protocol that stands for the
// instance: the one without a name, else the first by name that there is. Addresses of
// unix sockets are left out. It returns "" if there is none.
func (in *Instance) FirstEndpoint(protocol string) string {
	best, address := "", in.Endpoints[protocol]
	if address != "" && !strings.HasPrefix(address, unixScheme) {
		return address
	}
	address = ""
	for endpoint, a := range in.Endpoints {
		if p, name := CutEndpoint(endpoint); p == protocol && name != "" && !strings.HasPrefix(a, unixScheme) && (best == "" || name < best) {
			best, address = name, a
		}
	}
	return address
}

// hasSocket reports whether an endpoint is a unix socket.
func (in *Instance) hasSocket() bool {
	for _, address := range in.Endpoints {
		if strings.HasPrefix(address, unixScheme) {
			return true
		}
	}
	return false
}
