package wire

import (
	"time"
)

// EvacuateFamily begins the keys of orders to evacuate.
const EvacuateFamily = "evacuate."

// PolicyFamily begins the keys of policies.
const PolicyFamily = "policy."

// MarkerTTL is how long a removal stays readable: a snapshot that is read within
// that time lists it.
const MarkerTTL = time.Hour

// Bucket is where instances are read: the registry's own bucket, or the one
// that sources those of other regions.
type Bucket struct {
	Name   string
	Stream string // KV_<name>
	Prefix string // $KV.<name>.
	Inst   string // $KV.<name>.inst.
	Origin string // the prefix in the bucket that was written: schedules name their leases there
	Live   string // <name>., the prefix of republished changes
	Direct string // subject of direct gets: any copy answers
	Leader string // and of those that only the stream's leader answers
}

// NewBucket is a bucket whose messages were written in the bucket origin; api is
// the prefix of JetStream's subjects.
func NewBucket(name, origin, api string) Bucket {
	prefix := "$KV." + name + "."
	return Bucket{
		Name: name, Stream: "KV_" + name,
		Prefix: prefix, Inst: prefix + "inst.", Origin: "$KV." + origin + ".",
		Live:   name + ".",
		Direct: api + "DIRECT.GET.KV_" + name, Leader: api + "STREAM.MSG.GET.KV_" + name,
	}
}

// Sourced says whether it has what other buckets have.
func (b *Bucket) Sourced() bool { return b.Origin != b.Prefix }
