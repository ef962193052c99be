// Package kv is the registry in NATS: one JetStream key-value bucket that
// holds a record and a lease for every instance.
//
// [Open] returns a [Registry]. [Registry.Announce] keeps one instance listed
// for as long as it lives; [Registry.Watch] calls back with every change. It is the
// only package of Proxima that knows JetStream.
//
// # Lease
//
// A record is written rarely, its lease often. The lease is a message that the server
// will publish by itself, once the ttl has passed, as a purge of the record; every
// heartbeat replaces it before that. So the server removes dead instances, on its own
// clock, and no watcher receives heartbeats. A heartbeat is fenced with the revision of
// the record: when the record is gone, or belongs to another instance, the server refuses
// the heartbeat, and the announcer knows at once. The reasons stand in docs/decisions.
//
// # Beats
//
// An announcement with [AnnounceOptions].Load publishes the load of its instance every
// few seconds on core NATS: <bucket>.beat.<service>.<region>.<zone>.<id>. No server keeps
// it; only subscribers receive it.
//
// # Watch
//
// Changes are republished by the stream on plain subjects. A watcher
// subscribes to them, reads a snapshot with batched direct gets, and merges
// both by sequence. It needs no consumer, so it survives the loss of any
// server, and it reads again whenever it may have missed something.
//
// An instance that deregisters is removed at once, and so is one that expires alone.
// Other instances are kept as suspects for a while, because a failure of the registry is
// more likely than theirs:
//
//   - many instances of a service, or of one of its zones, that expire together;
//   - an instance that expires just after an outage;
//   - the last instance of a service, without which no call can succeed;
//   - instances whose records vanish without a deregistration or an expiry.
//
// Suspects can be probed, as package selector does.
// [events.Snapshot].Left has the reasons why instances left.
//
// With [Options].SnapshotDir the last snapshots are kept on disk, too, for
// callers that start while the registry is away.
//
// # Regions
//
// Each region may have a registry of its own, in its own JetStream domain, and read the
// others ([Options].Regions): a stream of the region sources their buckets, and watches
// put both together. An instance is announced, renewed and removed in its own region
// alone, also while other regions cannot be reached. Announcements and routers maintain
// that stream ([Registry.KeepSources]).
//
// # Evacuations
//
// An operator may order that the instances of a region or zone are used only when no
// other instance can be ([Registry.Evacuate]). The order is a key of the bucket. Every
// watch receives it, and sets [events.Entry].Evacuated in its snapshots.
//
// # Policies
//
// An operator may say how calls to a service are made ([Registry.PutPolicy]). The
// document is a key of the bucket; [Registry.WatchPolicy] calls back with what holds,
// and keeps the last good one where a newer one cannot be read.
package kv
