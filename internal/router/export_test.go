package router

// For fuzzing the parsers of what callers say.
var (
	ParsePath   = parsePath
	ParseMethod = parseMethod
	ParseFrom   = parseFrom
	ParseLimit  = parseLimit
)
