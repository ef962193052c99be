// Package events is what travels between announcers, registries and callers:
// instances, their keys, and how loaded they are. It is the vocabulary of Proxima; read it first.
//
// An [Instance] is one running copy of a service. [Encode] writes it as the
// JSON record that a registry keeps, [Decode] reads it, and both validate it:
// whatever comes out of Decode can be used without another look, whoever wrote
// it. [Key] is where it is kept, and what of its place a subject tells. A
// [Snapshot] is all that one source knows about one service. A [Beat] is how
// loaded an instance says it is, with [EncodeBeat] and [DecodeBeat].
//
// Decode is what a caller that starts does a hundred thousand times. So the
// usual record is read by a fast parser, into few allocations, and keeps little
// more than its texts; whatever is unusual in it is read by encoding/json,
// whose word counts. Every record is UTF-8.
package events
