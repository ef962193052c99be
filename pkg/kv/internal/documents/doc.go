// Package documents keeps what operators write under the keys of a family, such as the
// orders to evacuate a place and the policies of services. A [Collection] is those in the
// buckets, and a [Follower] tells their users of each change. Of two documents under one
// key the later one holds (docs/decisions/0016), and one that cannot be read leaves the
// last good one in place (docs/decisions/0034).
package documents
