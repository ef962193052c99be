// Package kv is the registry in NATS: one JetStream key-value bucket that
// holds a record and a lease for every instance.
//
// [Open] returns a [Registry]. [Registry.Announce] keeps one instance listed
// for as long as it lives; [Registry.Watch] calls back with every change. It is the
// only package of Proxima that knows JetStream.
//
// # Lease
//
// A record is written rarely, its lease often. The lease is a message that the
// server will publish by itself, once the ttl has passed, as a purge of the
// record; every heartbeat replaces it before that. So dead instances are
// removed by the server, on the server's clock, and no watcher hears a
// heartbeat. A heartbeat is fenced with the revision of the record: when the
// record is gone or another instance's, the server refuses it, and the announcer
// knows at once. See docs/decisions for why it is built so.
//
// # Beats
//
// An instance that knows how loaded it is ([AnnounceOptions].Load) publishes that
// every few seconds on core NATS: <bucket>.beat.<service>.<region>.<zone>.<id>.
// Nothing of it is kept, and only subscribers receive it.
//
// # Watch
//
// Changes are republished by the stream on plain subjects. A watcher
// subscribes to them, reads a snapshot with batched direct gets, and merges
// both by sequence. It needs no consumer, so it survives the loss of any
// server, and it reads again whenever it may have missed something.
//
// An instance that deregisters is gone at once, and so is one that expires
// alone. Many of a service or of one of its zones that expire together, one that
// expires just after an outage, and all that vanish without a word are kept as
// suspects for a while: it is more likely that the registry failed than that
// they did. So is the last one of a service, without which no call can succeed.
// The user of a list can probe them; package selector does. A snapshot says why
// instances left ([events.Snapshot].Left).
//
// With [Options].SnapshotDir the last snapshots are kept on disk, too, for
// callers that start while the registry is away.
//
// # Regions
//
// Each region may have a registry of its own, in its own JetStream domain, and
// read the others ([Options].Regions): a stream of the region sources their
// buckets, and watches put both together. An instance is announced, renewed and
// removed in its own region alone, so it does not matter to the others whether a
// region can be reached. Announcements and routers look after that stream
// ([Registry.KeepSources]).
//
// # Evacuations
//
// An operator may order that a region or zone be used only when there is nothing
// else ([Registry.Evacuate]). The order is a key of the bucket, reaches every watch,
// and stands beside each instance in a snapshot as [events.Entry].Evacuated.
//
// # Policies
//
// An operator may say how calls to a service are made ([Registry.PutPolicy]). The
// document is a key of the bucket; [Registry.WatchPolicy] calls back with what holds,
// and keeps the last good one where a newer one cannot be read.
package kv
