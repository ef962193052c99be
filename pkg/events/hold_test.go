package events_test

import (
	"runtime"
	"testing"
	"weak"

	"github.com/proxima-discovery/proxima/pkg/events"
)

func TestAnUnusedInstanceIsFreed(t *testing.T) {
	left := decodeAndForget(t)
	runtime.GC() // once: a sync.Pool forgets at the second
	for i, p := range left {
		if p.Value() != nil {
			t.Errorf("instance %d is still held", i)
		}
	}
}

//go:noinline
func decodeAndForget(t *testing.T) (left []weak.Pointer[events.Instance]) {
	for range 10 {
		in, err := events.Decode([]byte(typical))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, weak.Make(in))
	}
	return left
}
