// Package view decides what to believe of a registry. Changes of its bucket and
// the time go in, in any order and from copies that may lag behind; a complete
// snapshot of each service comes out. It has no connection, no goroutine and no
// lock: package tail drives it.
//
// [View.Hear] takes a change as it happens, [View.Begin], [View.List] and
// [View.End] take a read. An instance leaves a snapshot when it is deregistered or
// its lease ends, if it is not likely that the registry failed instead of the
// instance: then it stays as a suspect for a time (suspect.go).
package view
