// Package router is discovery for programs that do not link Proxima: it looks
// up, explains, registers and passes calls on for them, over HTTP and NATS.
//
// [New] makes a [Router] out of a connection and a registry. Inside it a
// directory follows all services with one watch, and a selector that reads
// from the directory picks the instances. Everything else is a door to these
// two: requests to list and explain (services.go), registration with leases
// kept alive by the client's own heartbeats ([Registrar]), changes as
// server-sent events (events.go), the reverse proxy (proxy.go) and the
// endpoints of the NATS service "proxima" (doors.go, route.go). What answers
// an error gets its code from one function, codeOf.
//
// # Whom the router calls
//
// Instances announce their own addresses, so a router must not be led to call
// just anybody: see [Guard] for the addresses, and route.go for NATS subjects.
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
// Errors are {"error":"…"} with the status 400, 404, 405, 409, 413, 502, 503
// or 504.
//
// # NATS
//
//	proxima.route.<service>    the payload goes to the nearest instance
//	proxima.resolve.<service>  what GET /v1/services/{service} answers
//	proxima.explain.<service>  what GET /v1/explain/{service} answers
//
// Errors are in the headers Nats-Service-Error-Code and Nats-Service-Error.
package router
