//go:build unix

package faults

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strings"
)

// leaks is the stacks of goroutines that began in the named world and are ours
// or nats.go's. A goroutine has the labels of the one that started it.
func leaks(world string) string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return err.Error()
	}
	var left []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		ours := strings.Contains(stack, "/proxima/pkg/") || strings.Contains(stack, "nats-io/nats.go")
		if ours && strings.Contains(stack, fmt.Sprintf("%q:%q", "world", world)) {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}
