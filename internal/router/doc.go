// Package router serves programs that do not link Proxima: over HTTP and NATS it
// lists instances, explains picks, registers instances and passes calls on.
// docs/doors.md describes every request and answer with examples.
//
// [New] makes a [Router] from a NATS connection and a registry. Three packages
// below this one do the work that has nothing to do with HTTP or NATS requests:
// directory holds the list of all services and their changes, registrar registers
// instances for clients, and guard decides which addresses may be called. A
// selector reads from the directory and picks instances. This package is the doors
// to these four, one file each:
//
//	lookup.go    lists and explanations, by HTTP and NATS
//	register.go  registration, heartbeats, deregistration
//	events.go    changes, as server-sent events
//	proxy.go     HTTP requests that are passed on
//	route.go     NATS messages that are passed on
//	http.go      the HTTP handler, JSON answers and errors
//	nats.go      the NATS service "proxima"
//
// errors.go chooses the status of every error, by HTTP and NATS alike.
//
// # Which addresses the router calls
//
// Instances announce their own addresses, so a router must not follow them
// everywhere: see [guard.Guard] for network addresses. Subjects of the NATS
// server, of inboxes, of the registry and of the routers are refused too, for the
// endpoints of instances as for the reply subjects of callers.
//
// # HTTP
//
//	GET    /v1/services              all services, by name
//	GET    /v1/services/{service}    ?from=region/zone &limit=n: instances, nearest first
//	GET    /v1/explain/{service}     ?from=region/zone: every instance and why it is picked or not
//	GET    /v1/events                ?service=name: changes as server-sent events
//	POST   /v1/register              an instance as JSON
//	PUT    /v1/heartbeat             {"service","id"}
//	DELETE /v1/deregister            {"service","id"}
//	ANY    /proxy/{service}/{path…}  and every path of the host {service}.proxima
//	GET    /healthz, /readyz, /metrics
//
// The body of an error is {"error":"…"}. The status is
//
//	400  the request is wrong: the text names the field
//	403  a browser acts for a page of another site
//	404  no such service, instance or path
//	405  the path has another method: Allow names it
//	409  the id belongs to another instance
//	413  the body is too large
//	502  an instance failed, and may have received the call
//	503  no usable instance, no registry, or the router is busy or stopping
//	504  no answer in time
//	508  the call came from this router
//
// # NATS
//
//	proxima.route.<service>    passes the payload to the nearest instance
//	proxima.resolve.<service>  answers as GET /v1/services/{service}
//	proxima.explain.<service>  answers as GET /v1/explain/{service}
//
// Errors are in the headers Nats-Service-Error-Code, with the same codes, and
// Nats-Service-Error. If the header Proxima-Instance is set, the instance sent
// them, not the router.
package router
