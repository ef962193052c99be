package router

import (
	"context"
	"time"
)

// For fuzzing the parsers of what callers say.
var (
	ParsePath   = parsePath
	ParseMethod = parseMethod
	ParseFrom   = parseFrom
	ParseLimit  = parseLimit
)

// Patience is for tests on fake time, which sockets would stop.
type Patience struct{ *patience }

func WithPatience(parent context.Context, limit time.Duration) Patience {
	return Patience{withPatience(parent, limit)}
}

func (p Patience) Begun()  { p.begun() }
func (p Patience) Extend() { p.extend() }
func (p Patience) End()    { p.end() }
