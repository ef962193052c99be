// Package demo is the whole system on one screen: a NATS server, six real
// instances of a service in four zones, and a caller that calls all the time
// while instances are killed, paused and drained.
//
// The instances are processes of their own that serve HTTP and announce
// themselves. Only the network between zones is made up: the caller's
// connections are delayed in user space by the round trips that CloudPing.co
// measured between the regions of AWS.
package demo
