package router

import (
	"context"
	"net/http"
	"time"
)

// Parsers of what callers send, for fuzzing.
var (
	ParsePath   = parsePath
	ParseMethod = parseMethod
	ParseFrom   = parseFrom
	ParseLimit  = parseLimit
	ToHTTP      = toHTTP
)

// Target returns where a request of the proxy goes.
func Target(req *http.Request) (service, path string, ok bool) {
	to, ok := target(req)
	return to.service, to.path, ok
}

// Server is what Serve answers by HTTP with.
func (r *Router) Server() *http.Server { return r.newServer() }

// HeadContext is for tests on fake time, which sockets would stop.
type HeadContext struct{ *headContext }

func WithHeadTimeout(parent context.Context, d time.Duration) HeadContext {
	return HeadContext{withHeadTimeout(parent, limit{"--timeout", d})}
}

func (c HeadContext) Begin()  { c.begin() }
func (c HeadContext) Extend() { c.extend() }
func (c HeadContext) End()    { c.end() }

// Routes are the paths of the router itself, each with its method before it.
func (r *Router) Routes() (all []string) {
	for _, route := range r.routes() {
		all = append(all, route.method+" "+route.path)
	}
	return all
}
