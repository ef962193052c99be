// Package wire is the registry as it stands in NATS: the names of its buckets,
// the headers and messages of its streams, the questions that are asked of them,
// and the [Link] over which all of it goes.
package wire
