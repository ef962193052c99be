// Package events defines what announcers, registries and callers exchange:
// instances, their keys and their load.
//
// Most users need five names of it: [Instance], its [Status], the [Snapshot] of a
// service with its [Entry] values, and the protocols, such as [HTTP]. The rest is for
// programs that read or write a registry:
//
//   - [Encode] writes an Instance as the JSON record of a registry, and [Decode]
//     reads it. Both validate: an Instance from Decode is valid, whatever wrote it.
//   - [Key] is an instance's place in keys and subjects, and [ServiceTokens] a service's.
//   - A [Beat] is an instance's load report; an [Evacuation] is an operator's order
//     to use a place only when there is no other.
//
// A caller that starts may decode a hundred thousand records. So a fast parser
// reads the usual record, with few allocations. Any other record is read by
// encoding/json, which decides what is accepted. Every record is UTF-8.
package events
