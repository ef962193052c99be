//go:build !race

package events_test

import (
	"testing"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// Not with the race detector, under which a sync.Pool forgets on purpose.
func TestTheUsualRecordTakesFewAllocations(t *testing.T) {
	for record, limit := range map[string]float64{typical: 6, withCoordinate: 7, least: 4} {
		data := []byte(record)
		got := testing.AllocsPerRun(200, func() {
			if _, err := events.Decode(data); err != nil {
				t.Fatal(err)
			}
		})
		if got > limit {
			t.Errorf("%.60s takes %v allocations, want %v", record, got, limit)
		}
	}
}
