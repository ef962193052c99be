// Package demo shows the whole system on one screen: a NATS server, six instances
// of a service in four zones, and a caller that calls at a steady rate while
// instances are killed, paused and drained.
//
// The instances are processes that serve HTTP and announce themselves. Only the
// network between zones is simulated: the connections of the caller are delayed in
// user space by the round trips that CloudPing.co measured between the regions of
// AWS.
package demo
