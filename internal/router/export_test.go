package router

import (
	"context"
	"net/http"
	"time"
)

// For fuzzing the parsers of what callers say.
var (
	ParsePath   = parsePath
	ParseMethod = parseMethod
	ParseFrom   = parseFrom
	ParseLimit  = parseLimit
	ToHTTP      = toHTTP
)

// Target is where a request is proxied to, if it is.
func Target(req *http.Request) (service, path string, ok bool) {
	to, ok := target(req)
	return to.service, to.path, ok
}

// Patience is for tests on fake time, which sockets would stop.
type Patience struct{ *patience }

func WithPatience(parent context.Context, limit time.Duration) Patience {
	return Patience{withPatience(parent, limit)}
}

func (p Patience) Begun()  { p.begun() }
func (p Patience) Extend() { p.extend() }
func (p Patience) End()    { p.end() }
