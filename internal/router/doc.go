// Package router is discovery for programs that do not link Proxima: it looks
// up, explains, registers and passes calls on for them, over HTTP and NATS.
//
// [New] makes a [Router] out of a connection and a registry. Inside it a
// directory follows all services with one watch, and a selector that reads
// from the directory picks the instances. Everything else is a door to these
// two: requests to list and explain (lookup.go), registration with leases
// kept alive by the client's own heartbeats ([Registrar]), changes as
// server-sent events (events.go), the reverse proxy (proxy.go) and the
// endpoints of the NATS service "proxima" (nats.go, route.go). What answers
// an error gets its code from one function, codeOf.
//
// # Whom the router calls
//
// Instances announce their own addresses, so a router must not be led to call
// just anybody: see [guard.Guard] for the addresses, and route.go for NATS subjects.
//
// # HTTP
//
//	GET    /v1/services              {"services":[{"name","instances","up","stale"}…]}, by name
//	GET    /v1/services/{service}    ?from=region/zone &limit=n: instances, nearest first
//	GET    /v1/explain/{service}     ?from=region/zone: every candidate and why it is picked or not
//	GET    /v1/events                ?service=name: changes as server-sent events
//	POST   /v1/register              an instance as JSON
//	PUT    /v1/heartbeat             {"service","id"}
//	DELETE /v1/deregister            {"service","id"}
//	ANY    /proxy/{service}/{path…}  and every path of the host {service}.proxima
//	GET    /healthz, /readyz, /metrics
//
// Errors are {"error":"…"}. The status is 400, 404 or 413 for what the caller
// did wrong, 403 for a browser that acts for another site's page, 405 with
// Allow, 409 for an id that is taken, 503 when there is no usable instance or
// no registry, 504 when there was no answer in time, 502 when an instance
// failed that may have got the call, and 508 for a call that comes from the
// router itself.
//
// # NATS
//
//	proxima.route.<service>    the payload goes to the nearest instance
//	proxima.resolve.<service>  what GET /v1/services/{service} answers
//	proxima.explain.<service>  what GET /v1/explain/{service} answers
//
// Errors are in the headers Nats-Service-Error-Code and Nats-Service-Error,
// with the same codes. With Proxima-Instance it is the instance who says so.
package router
