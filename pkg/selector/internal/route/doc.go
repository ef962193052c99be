// Package route decides which of the rules of a policy a call is for: an override, a split,
// or what is left.
//
// There is no connection, goroutine or lock in this package.
package route
