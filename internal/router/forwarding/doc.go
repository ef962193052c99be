// Package forwarding is the headers by which a reverse proxy tells an instance for whom
// it asks, and the places in answers that name the instance's own paths.
//
// It is pure: there is no connection, goroutine or lock.
package forwarding
