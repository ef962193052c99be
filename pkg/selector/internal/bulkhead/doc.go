// Package bulkhead bounds calls in flight: a [Limit] finds how many an instance takes
// without a queue of its own, and a [Queue] keeps calls that wait for a place in order. It
// is pure: no connection, goroutine or clock.
package bulkhead
