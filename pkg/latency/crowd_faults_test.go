//go:build faults && !race

package latency_test

import (
	"testing"
	"time"
)

// It says nothing about races, and takes half a minute.
func TestWhatAnInstanceReceivesDoesNotGrowWithAThousandCallers(t *testing.T) {
	crowds(t, crowd{1000, 0, 1}, crowd{1000, 3 * time.Second, 0})
}
