//go:build !linux

package load

import (
	"errors"
	"time"
)

// Measure returns an error: only Linux is supported.
func Measure(int, []uint16, time.Duration) (Func, error) {
	return nil, errors.New("supported on Linux only")
}

// InFlight returns nil: only Linux is supported.
func InFlight(int, map[string]string) func() int { return nil }
