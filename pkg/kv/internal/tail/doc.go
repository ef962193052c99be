// Package tail follows one bucket: a subscription to its changes, reads of what
// may have been missed, and checks that nothing was. Each watch is a tail; it
// drives a view (package view) from one goroutine and hands out the snapshots.
package tail
