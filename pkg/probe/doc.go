// Package probe measures one round trip to an instance, in the way that the
// instance supports.
//
//   - [Connect] opens a TCP connection. It needs nothing of the instance but a
//     port.
//   - [HTTP2] exchanges a frame on an open connection: the peer's HTTP/2 answers
//     it, not a handler. It is for gRPC, and for HTTPS that speaks HTTP/2.
//   - [HTTP] makes a request on an open connection. The handler's time is part of
//     the measurement.
//   - [NATS] makes a request through NATS, which the instance's announcement
//     answers.
//   - [Conn] takes measurements from connections that calls use anyway.
//
// All but Connect use a connection that is open already, so a measurement costs
// neither side a connection.
//
// # What the instance sees
//
// Connect opens a connection and closes it without a byte, as load balancers
// do. It closes it in the ordinary way and does not reset it: servers (gRPC's
// for one) take the plain end of a stream for a health check, and log a reset.
// The price is a socket in TIME_WAIT on this side for a minute per probe. A
// server that speaks TLS may log a handshake that ended early.
//
// A connection proves that the machine is there: the kernel accepts it also for
// a process that hangs. Whether an instance works is the circuit breaker's
// question.
package probe
