package router

import (
	"time"

	"github.com/proxima-discovery/proxima/internal/router/directory"
	"github.com/proxima-discovery/proxima/pkg/telemetry"
)

// requestCounts counts requests by door, service and code.
type requestCounts struct {
	metrics   *telemetry.Metrics // nil: nothing is counted
	directory *directory.Directory
	endings   *endings
}

// late logs and counts a call that a limit has ended.
func (c requestCounts) late(service string, err *timeoutError) {
	c.endings.add(service, err)
	if c.metrics != nil {
		c.metrics.Timeout(c.label(service), err.name)
	}
}

// label is the name of a service in metrics: "" if no such service is listed, as
// every name costs memory for ever.
func (c requestCounts) label(service string) string {
	if _, known := c.directory.Endpoints(service); known {
		return service
	}
	return ""
}

func (c requestCounts) add(door, service, code string, since time.Time) {
	if c.metrics != nil {
		c.metrics.Request(door, c.label(service), code, time.Since(since))
	}
}
