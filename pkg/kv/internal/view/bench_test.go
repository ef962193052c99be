package view

import (
	"fmt"
	"testing"
	"time"

	"github.com/proxima-discovery/proxima/pkg/events"
)

// BenchmarkChange is a change of one instance among many, from the message to
// the snapshot.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		b.Run(fmt.Sprintf("instances=%d", n), func(b *testing.B) {
			v := bare()
			v.Begin(true)
			for i := range n {
				v.mark(put(fmt.Sprint("i", i), uint64(i+1), 0, "1"))
			}
			v.End(time.Now())
			seq := uint64(n)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				seq++
				msg := put(fmt.Sprint("i", n/2), seq, 0, fmt.Sprint(seq))
				b.StartTimer()
				v.hear(msg)
				v.Publish(false, time.Time{}, func(s events.Snapshot) {
					if len(s.Entries) != n {
						b.Fatal(len(s.Entries))
					}
				})
			}
		})
	}
}
