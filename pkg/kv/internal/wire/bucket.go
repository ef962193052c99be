package kv

// bucket is where instances are read: the registry's own bucket, or the one
// that sources those of other regions.
type bucket struct {
	name   string
	stream string // KV_<name>
	prefix string // $KV.<name>.
	inst   string // $KV.<name>.inst.
	origin string // the prefix in the bucket that was written: schedules name their leases there
	live   string // <name>., the prefix of republished changes
	direct string // subject of direct gets: any copy answers
	leader string // and of those that only the stream's leader answers
	store  *store // of the last snapshots; nil: nothing is saved
}

// newBucket is a bucket whose messages were written in the bucket origin; api is
// the prefix of JetStream's subjects.
func newBucket(name, origin, api string) bucket {
	prefix := "$KV." + name + "."
	return bucket{
		name: name, stream: "KV_" + name,
		prefix: prefix, inst: prefix + "inst.", origin: "$KV." + origin + ".",
		live:   name + ".",
		direct: api + "DIRECT.GET.KV_" + name, leader: api + "STREAM.MSG.GET.KV_" + name,
	}
}

// sourced says whether it has what other buckets have.
func (b *bucket) sourced() bool { return b.origin != b.prefix }

// Buckets are the names of the buckets that are read: the registry's own first,
// and, with [Options.Regions], the one of the other regions. Changes in a bucket are
// republished on <name>.inst.<service>.<region>.<zone>.<id>.
func (r *Registry) Buckets() []string {
	var names []string
	for _, b := range r.buckets() {
		names = append(names, b.name)
	}
	return names
}

// buckets are all that are read.
func (r *Registry) buckets() []*bucket {
	if r.others == nil {
		return []*bucket{&r.bucket}
	}
	return []*bucket{&r.bucket, r.others}
}
