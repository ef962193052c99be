//go:build unix

package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync"

	"github.com/proxima-discovery/proxima/internal/testkit"
)

// end ends the world: first what the servers serve. Then nothing may be left.
func (w *World) end() {
	w.stop()
	w.watch.Wait()
	w.beacon.close()
	for len(w.callers) > 0 {
		w.callers[0].Close()
	}
	// Leaving does not wait for servers that may be gone.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var leaving sync.WaitGroup
	for _, i := range w.instances {
		leaving.Go(func() { i.close(ctx) })
	}
	leaving.Wait()
	for _, nc := range w.conns {
		if n := nc.NumSubscriptions(); n > 1 { // one is nats.go's, for answers
			w.t.Errorf("announcers have left %d subscriptions", n)
		}
		nc.Close()
	}
	testkit.Retry(w.t, "no goroutine is left after everything was closed", func(context.Context) error {
		if left := leaks(w.t.Name()); left != "" {
			return errors.New(left)
		}
		return nil
	})
}

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
