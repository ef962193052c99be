//go:build !linux

package probe

import (
	"net"
	"time"
)

// kernelRTT has no samples: only Linux's kernel is asked.
func kernelRTT(*net.TCPConn) (average, least time.Duration, ok bool) { return 0, 0, false }
