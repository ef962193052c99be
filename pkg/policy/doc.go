// Package policy is the document that says how calls to a service are made: the strategy,
// time limits, retries, and which share of the calls goes to which instances.
//
// Operators write it with `router policy set`, and the registry keeps one for a service
// and one for all of them. Each caller reads it and applies it itself. [Decode] reads a
// document and refuses what cannot be meant: fields that do not exist, values out of range,
// null. [Merge] puts the document of a service over that for all, and [Diff] shows what a
// change does. The tags of the types are the rules, of Decode and of the JSON schema in
// docs/policy.schema.json alike. The package has no connection, goroutine or lock.
package policy
