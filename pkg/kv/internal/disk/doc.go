// Package disk keeps the last snapshot of each service in files, for callers that
// start while the registry is away.
package disk
